// A table of colours, and rows of places in it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace v2e {

class Palette {
  public:
    static constexpr size_t COLOURS = 256;

    // Colours that nobody sets are black.
    void set(size_t colour, uint8_t red, uint8_t green, uint8_t blue) { colours_[colour] = {red, green, blue}; }
    // Every place is a grey of its own brightness.
    void set_greys() {
        for (size_t colour = 0; colour < COLOURS; ++colour)
            set(colour, static_cast<uint8_t>(colour), static_cast<uint8_t>(colour), static_cast<uint8_t>(colour));
    }
    // row: (columns,) places of 1, 2, 4 or 8 bits, the first one in the highest bits; rgb: (columns, 3).
    void expand(const uint8_t *row, size_t columns, uint32_t bits, uint8_t *rgb) const {
        const uint32_t mask = (1u << bits) - 1;
        for (size_t column = 0; column < columns; ++column, rgb += 3) {
            const size_t bit = column * bits;
            const auto &colour = colours_[row[bit / 8] >> (8 - bits - bit % 8) & mask];
            rgb[0] = colour[0];
            rgb[1] = colour[1];
            rgb[2] = colour[2];
        }
    }

  private:
    std::array<std::array<uint8_t, 3>, COLOURS> colours_{};
};

} // namespace v2e

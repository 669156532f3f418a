// How pictures become tokens, in the words of the header.
#pragma once

#include "picture/geometry.hpp"
#include "valley2_parts.h"

#include <cstdint>
#include <vector>

namespace v2e {

// The struct points into the canvases.
class GeometryRequest {
  public:
    explicit GeometryRequest(const GeometryOptions &options);
    GeometryRequest(const GeometryRequest &) = delete;
    GeometryRequest &operator=(const GeometryRequest &) = delete;

    const v2e_geometry_options *get() const { return &struct_; }

  private:
    std::vector<uint32_t> canvases_; // (n, 2): width, height in pixels
    v2e_geometry_options struct_{};
};

} // namespace v2e

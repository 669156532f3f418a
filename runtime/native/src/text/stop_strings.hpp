// Strings that end an answer where the model writes them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace v2e {

// Looks for stop strings in a text that comes in pieces. The text ends before the string that is complete first; of
// those that are complete with the same character, before the longest. How the text was cut into pieces changes
// nothing but when it is given out.
class StopStrings {
  public:
    static constexpr size_t MOST_STRINGS = 64;
    static constexpr size_t MOST_BYTES = 1024; // of one string

    // Fails with V2E_ERROR_INPUT when there are too many strings, or one is empty, too long or not UTF-8.
    explicit StopStrings(std::vector<std::string> strings);

    // Takes a piece of whole characters and returns the text that is now certain to stand before a stop string. Once
    // one was found nothing more comes.
    std::string push(std::string_view text);
    // Returns what is left when no text follows: what looked like the beginning of a stop string.
    std::string finish();
    // Whether a stop string was found.
    bool stopped() const { return stopped_; }

  private:
    // One string and how much of it stands at the end of the text (the search of Knuth, Morris and Pratt, 1977).
    struct Search {
        std::string text;
        std::vector<size_t> border; // of each beginning: the longest shorter one that it ends with, bytes
        size_t matched = 0;         // bytes
    };

    void advance(Search &search, char byte) const;

    std::vector<Search> searches_;
    std::string held_;
    bool stopped_ = false;
};

} // namespace v2e

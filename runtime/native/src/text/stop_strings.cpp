#include "text/stop_strings.hpp"

#include "base/error.hpp"
#include "base/utf8.hpp"

#include <algorithm>

namespace v2e {

StopStrings::StopStrings(std::vector<std::string> strings) {
    if (strings.size() > MOST_STRINGS)
        fail(V2E_ERROR_INPUT, "There are %zu stop strings; at most %zu are taken.", strings.size(), MOST_STRINGS);
    for (std::string &text : strings) {
        if (text.empty() || text.size() > MOST_BYTES)
            fail(V2E_ERROR_INPUT, "A stop string has %zu bytes; it may have 1 to %zu.", text.size(), MOST_BYTES);
        if (!is_utf8(text))
            fail(V2E_ERROR_INPUT, "A stop string is not UTF-8.");
        Search search{std::move(text), {}, 0};
        search.border.assign(search.text.size(), 0);
        for (size_t end = 1, border = 0; end < search.text.size(); ++end) {
            while (border > 0 && search.text[end] != search.text[border])
                border = search.border[border - 1];
            border += search.text[end] == search.text[border] ? 1 : 0;
            search.border[end] = border;
        }
        searches_.push_back(std::move(search));
    }
}

void StopStrings::advance(Search &search, char byte) const {
    while (search.matched > 0 && search.text[search.matched] != byte)
        search.matched = search.border[search.matched - 1];
    search.matched += search.text[search.matched] == byte ? 1 : 0;
}

std::string StopStrings::push(std::string_view text) {
    if (stopped_)
        return {};
    for (size_t position = 0; position < text.size(); ++position) {
        size_t longest = 0;
        for (Search &search : searches_) {
            advance(search, text[position]);
            if (search.matched == search.text.size())
                longest = std::max(longest, search.matched);
        }
        if (longest > 0) {
            stopped_ = true;
            held_.append(text.substr(0, position + 1));
            held_.resize(held_.size() - longest);
            return std::move(held_);
        }
    }
    held_.append(text);
    size_t keep = 0;
    for (const Search &search : searches_)
        keep = std::max(keep, search.matched);
    std::string certain = held_.substr(0, held_.size() - keep);
    held_.erase(0, certain.size());
    return certain;
}

std::string StopStrings::finish() {
    return stopped_ ? std::string() : std::exchange(held_, {});
}

} // namespace v2e

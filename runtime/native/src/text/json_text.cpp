#include "text/json_text.hpp"

#include "base/utf8.hpp"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace v2e {
namespace {

constexpr size_t MOST_SHOWN = 80; // bytes

bool is_number(const Json &value) {
    return value.kind() == Json::Kind::number || value.kind() == Json::Kind::boolean;
}

double number_of(const Json &value) {
    return value.kind() == Json::Kind::boolean ? value.boolean() : value.number();
}

std::string number_text(const Json &value) {
    char digits[40];
    const double number = value.number();
    std::snprintf(digits, sizeof digits, "%.15g", number);
    if (std::stod(digits) != number)
        std::snprintf(digits, sizeof digits, "%.17g", number);
    return digits;
}

// Nothing is appended behind what is shown.
void append(const Json &value, std::string &text) {
    if (text.size() > MOST_SHOWN)
        return;
    switch (value.kind()) {
    case Json::Kind::null:
        text += "None";
        break;
    case Json::Kind::boolean:
        text += value.boolean() ? "True" : "False";
        break;
    case Json::Kind::number:
        text += number_text(value);
        break;
    case Json::Kind::string:
        text += "'" + shown(value.string()) + "'";
        break;
    case Json::Kind::array: {
        text += '[';
        const char *separator = "";
        for (const Json &item : value.items()) {
            text += separator;
            append(item, text);
            separator = ", ";
        }
        text += ']';
        break;
    }
    case Json::Kind::object: {
        text += '{';
        const char *separator = "";
        for (const std::string &key : value.keys()) {
            text += separator + ("'" + shown(key)) + "': ";
            append(value.at(key), text);
            separator = ", ";
        }
        text += '}';
    }
    }
}

} // namespace

bool equal_values(const Json &a, const Json &b) {
    if (is_number(a) && is_number(b))
        return number_of(a) == number_of(b);
    if (a.kind() != b.kind())
        return false;
    switch (a.kind()) {
    case Json::Kind::string:
        return a.string() == b.string();
    case Json::Kind::array: {
        const std::vector<Json> first = a.items(), second = b.items();
        return std::equal(first.begin(), first.end(), second.begin(), second.end(), equal_values);
    }
    case Json::Kind::object: {
        const std::vector<std::string> keys = a.keys();
        return keys.size() == b.keys().size() && std::all_of(keys.begin(), keys.end(), [&](const std::string &key) {
                   return b.contains(key) && equal_values(a.at(key), b.at(key));
               });
    }
    default:
        return true; // null
    }
}

std::string shown_value(const Json &value) {
    std::string text;
    append(value, text);
    if (text.size() <= MOST_SHOWN + 2)
        return text;
    size_t end = 0;
    for (size_t size = 0; end + (size = utf8_character(std::string_view(text).substr(end))) <= MOST_SHOWN;)
        end += size;
    return text.substr(0, end) + "...";
}

} // namespace v2e

// How far a word is from another that somebody may have meant. Pure.
#pragma once

#include <cstddef>
#include <string_view>

namespace preforkd {

// In how many edits (insert, delete, or replace a character, swap two neighbours) one becomes the other.
size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace preforkd

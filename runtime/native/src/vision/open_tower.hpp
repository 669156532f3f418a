// Makes a tower: of a file, whichever of the three it holds.
#pragma once

#include "valley2.h"
#include "vision/tower.hpp"

#include <memory>
#include <string>

namespace v2e {

// Opens the tower that the file holds. Fails with V2E_ERROR_BUNDLE when the file holds none that is known.
std::unique_ptr<NativeTower> open_tower(const std::string &utf8_path, const TowerOptions &options);

} // namespace v2e

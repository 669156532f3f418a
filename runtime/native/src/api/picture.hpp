// What the handle of a picture holds, for the calls that are given one.
#pragma once

#include "picture/picture.hpp"
#include "valley2.h"

#include <memory>

namespace v2e {

// The picture of a handle, which lives on when the handle is closed. Null for NULL.
std::shared_ptr<const Picture> picture_of(const v2e_picture *picture);

} // namespace v2e

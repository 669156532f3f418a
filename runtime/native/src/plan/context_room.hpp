// Whether a question fits the context, and what to change when it does not.
#pragma once

#include "valley2_parts.h"

namespace v2e {

// As v2e_check_context says it. The options are the library's size.
void check_context(const v2e_context_question &question);

} // namespace v2e

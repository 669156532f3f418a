// Makes the executor of a decoder, wherever its layers are.
#pragma once

#include "decoder/executor.hpp"

#include <cstddef>
#include <memory>

namespace v2e {

// Makes an executor on the decoder's device, for sessions of at most `context_length` positions.
std::unique_ptr<Executor> make_executor(const Decoder &decoder, KvPrecision precision, size_t context_length);

} // namespace v2e

// Digests of contents, against values of another implementation.
#include "base/digest.hpp"
#include "tests/check.hpp"

#include <algorithm>
#include <string>

using namespace v2e;

namespace {

std::string digest_of(const std::string &content, size_t step) {
    Digest digest;
    for (size_t i = 0; i < content.size(); i += step)
        digest.add(content.data() + i, std::min(step, content.size() - i));
    return to_hex(digest.finish());
}

} // namespace

// Python: hashlib.blake2b(content, digest_size=32).hexdigest()
TEST_CASE("the digest equals BLAKE2b") {
    std::string rising;
    for (int i = 0; i < 1000; ++i)
        rising += static_cast<char>(i % 251);
    CHECK(digest_of("", 1) == "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
    CHECK(digest_of("abc", 1) == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
    CHECK(digest_of(rising.substr(0, 128), 128) == "c3582f71ebb2be66fa5dd750f80baae97554f3b015663c8be377cfcb2488c1d1");
    CHECK(digest_of(rising.substr(0, 129), 128) == "f7f3c46ba2564ff4c4c162da1f5b605f9f1c4aa6a20652a9f9a337c1a2f5b9c9");
    for (const size_t step : {1, 7, 127, 128, 129, 1000})
        CHECK(digest_of(rising, step) == "b372d0608f720c8c3dd41e9c8eecb10143b41abe520b616607e754bf79c08331");
}

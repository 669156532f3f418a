// Where the newest tokens stood before, and what followed them there.
#include "generation/token_history.hpp"
#include "tests/check.hpp"

#include <algorithm>
#include <initializer_list>

using namespace v2e;

namespace {

TokenHistory history_of(std::initializer_list<int32_t> tokens) {
    TokenHistory history;
    for (const int32_t token : tokens)
        history.append(token);
    return history;
}

std::vector<int32_t> followers(const TokenHistory &history, size_t count) {
    std::vector<int32_t> result;
    for (size_t ahead = 0; ahead < count; ++ahead)
        result.push_back(history.follower(ahead));
    return result;
}

using Tokens = std::vector<int32_t>;

} // namespace

TEST_CASE("a token history without a repeat has no followers") {
    CHECK(TokenHistory().follower(0) < 0);
    CHECK(history_of({1}).follower(0) < 0);
    CHECK(history_of({1, 2, 3, 4, 5, 6, 2}).follower(0) < 0); // one token alone is no repeat
}

TEST_CASE("the token history goes on as it went on before") {
    const TokenHistory history = history_of({1, 2, 3, 4, 5, 9, 2, 3});
    CHECK(history.repeat().end == 3);
    CHECK(history.repeat().length == 2);
    CHECK(followers(history, 5) == Tokens{4, 5, 9, 2, 3});
}

TEST_CASE("the token history at its own end goes on with itself") {
    CHECK(followers(history_of({8, 1, 2, 3, 1, 2, 3, 1, 2}), 7) == Tokens{3, 1, 2, 3, 1, 2, 3});
    CHECK(followers(history_of({5, 5, 5, 5}), 4) == Tokens{5, 5, 5, 5});
}

TEST_CASE("the token history prefers three tokens that agree over a later place with two") {
    CHECK(history_of({1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3}).follower(0) == 7);
}

TEST_CASE("the token history takes the latest of equal places") {
    CHECK(history_of({1, 2, 3, 7, 0, 1, 2, 3, 8, 0, 1, 2, 3}).follower(0) == 8);
}

TEST_CASE("the token history stays with a place as long as it agrees") {
    TokenHistory history = history_of({6, 1, 2, 3, 4, 5, 9, 2, 3, 8, 0, 6, 1, 2, 3});
    CHECK(history.follower(0) == 4); // six stood before 1, 2, 3; the later 2, 3 went on with 8
    history.append(4);
    CHECK(history.repeat().length == 5);
    CHECK(history.follower(0) == 5);
    history.append(7);
    CHECK(history.follower(0) < 0);
}

TEST_CASE("the token history counts the tokens that agree up to a limit") {
    TokenHistory history;
    for (size_t i = 0; i < 100; ++i)
        history.append(static_cast<int32_t>(i));
    for (size_t i = 0; i < 40; ++i) {
        history.append(static_cast<int32_t>(i));
        CHECK(history.repeat().length == (i < 1 ? 0 : std::min(i + 1, MOST_AGREEING)));
    }
    CHECK(history.follower(0) == 40);
}

TEST_CASE("the token history looks neither through nor into embeddings") {
    CHECK(history_of({1, -1, 3, 4, 1, -1}).follower(0) < 0);
    CHECK(history_of({-1, -1, -1, -1}).follower(0) < 0);
    CHECK(followers(history_of({1, 2, 3, -1, 4, 1, 2}), 3) == Tokens{3, -1, 4});
}

TEST_CASE("the token history forgets what was truncated") {
    TokenHistory history = history_of({1, 2, 3, 4, 1, 2, 3, 9});
    history.truncate(3);
    CHECK(history.length() == 3);
    CHECK(history.follower(0) < 0);
    for (const int32_t token : {7, 1, 2, 3})
        history.append(token);
    CHECK(history.follower(0) == 7);
}

TEST_CASE("the token history finds nearly everything after it has grown") {
    TokenHistory history;
    constexpr int32_t COUNT = 5000;
    for (int32_t token = 0; token < COUNT; ++token)
        history.append(token);
    int32_t found = 0;
    for (int32_t token = 0; token + 2 < COUNT; token += 2) {
        history.append(token);
        history.append(token + 1);
        found += history.follower(0) == token + 2 ? 1 : 0;
        history.truncate(COUNT);
    }
    CHECK(found > COUNT / 2 * 98 / 100);
}

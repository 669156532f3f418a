// KV pages that sessions leave for each other: what is found, what is copied, and what goes first.
#include "generation/prefix_cache.hpp"
#include "tests/check.hpp"

#include <thread>

using namespace v2e;

namespace {

constexpr uint64_t PAGE_BYTES = 2 * KV_PAGE * 16 * sizeof(float); // a page of the cache of a `Conversation`
constexpr uint64_t PLENTY = 100 * PAGE_BYTES;

std::vector<PositionKey> keys_of(size_t count, int32_t first = 0) {
    std::vector<PositionKey> keys;
    for (size_t i = 0; i < count; ++i)
        keys.push_back(key_of_token(first + static_cast<int32_t>(i)));
    return keys;
}

// A session without a decoder: one layer, one head of 16 channels, and values that are its positions.
struct Conversation {
    KvCache cache{1, 1, 16, KvPrecision::fp32};
    std::vector<PositionKey> keys;

    explicit Conversation(std::vector<PositionKey> given) : keys(std::move(given)) {
        cache.reserve(keys.size());
        for (size_t position = 0; position < keys.size(); ++position)
            *reinterpret_cast<float *>(cache.value(0, 0, position)) = static_cast<float>(position);
    }
};

void leave(PrefixCache &prefixes, Conversation conversation) {
    prefixes.insert(conversation.keys, conversation.cache);
}

size_t found(PrefixCache &prefixes, const std::vector<PositionKey> &keys) {
    return prefixes.find(KvPrecision::fp32, keys, keys.size()).positions;
}

} // namespace

TEST_CASE("the prefix cache finds the longest beginning") {
    PrefixCache prefixes(PLENTY);
    leave(prefixes, Conversation(keys_of(3 * KV_PAGE)));
    CHECK(found(prefixes, keys_of(3 * KV_PAGE)) == 3 * KV_PAGE);
    CHECK(found(prefixes, keys_of(2 * KV_PAGE + 7)) == 2 * KV_PAGE + 7);
    std::vector<PositionKey> other = keys_of(3 * KV_PAGE);
    other[KV_PAGE + 9] = key_of_token(-1);
    CHECK(found(prefixes, other) == KV_PAGE + 9);
    CHECK(found(prefixes, keys_of(KV_PAGE, 1)) == 0);
    CHECK(prefixes.find(KvPrecision::fp32, keys_of(KV_PAGE), 5).positions == 5);
    CHECK(prefixes.find(KvPrecision::int8, keys_of(KV_PAGE), KV_PAGE).positions == 0);
}

TEST_CASE("the prefix cache gives the pages of the positions") {
    PrefixCache prefixes(PLENTY);
    leave(prefixes, Conversation(keys_of(KV_PAGE + 40)));
    const PrefixCache::Match match = prefixes.find(KvPrecision::fp32, keys_of(KV_PAGE + 20), KV_PAGE + 20);
    CHECK(match.pages.size() == 2);
    KvCache cache(1, 1, 16, KvPrecision::fp32);
    cache.reserve(KV_PAGE + 20);
    for (size_t i = 0; i < 2; ++i)
        cache.replace(i, match.pages[i]);
    for (size_t position = 0; position < KV_PAGE + 20; ++position)
        CHECK(*reinterpret_cast<float *>(cache.value(0, 0, position)) == static_cast<float>(position));
    CHECK(cache.shared(1));
    cache.copy_page(1);
    CHECK(!cache.shared(1));
    CHECK(*reinterpret_cast<float *>(cache.value(0, 0, KV_PAGE + 19)) == static_cast<float>(KV_PAGE + 19));
}

TEST_CASE("the prefix cache keeps an equal page once") {
    PrefixCache prefixes(PLENTY);
    Conversation one(keys_of(KV_PAGE + 3)), other(keys_of(KV_PAGE + 3));
    CHECK(one.cache.page(0) != other.cache.page(0));
    prefixes.insert(one.keys, one.cache);
    prefixes.insert(other.keys, other.cache);
    CHECK(one.cache.page(0) == other.cache.page(0));
    CHECK(prefixes.page_count() == 2);
    CHECK(prefixes.kept_bytes() == 0); // sessions hold them
}

TEST_CASE("the prefix cache takes no pages that are not there") {
    PrefixCache prefixes(PLENTY);
    Conversation conversation(keys_of(KV_PAGE + 3));
    conversation.cache.trim(KV_PAGE);
    prefixes.insert(conversation.keys, conversation.cache);
    CHECK(prefixes.page_count() == 1);
    CHECK(found(prefixes, keys_of(KV_PAGE + 3)) == KV_PAGE);
    KvCache empty(1, 1, 16, KvPrecision::fp32);
    prefixes.insert(keys_of(5, 500), empty);
    CHECK(prefixes.page_count() == 1);
}

TEST_CASE("the prefix cache replaces a page by a fuller one") {
    PrefixCache prefixes(PLENTY);
    leave(prefixes, Conversation(keys_of(10)));
    leave(prefixes, Conversation(keys_of(20)));
    leave(prefixes, Conversation(keys_of(15)));
    CHECK(prefixes.page_count() == 1);
    CHECK(found(prefixes, keys_of(30)) == 20);
    leave(prefixes, Conversation(keys_of(KV_PAGE)));
    CHECK(prefixes.page_count() == 1);
}

TEST_CASE("the prefix cache lets the least recently used leaf go first") {
    PrefixCache prefixes(3 * PAGE_BYTES);
    leave(prefixes, Conversation(keys_of(KV_PAGE + 5)));
    leave(prefixes, Conversation(keys_of(8, 1000)));
    CHECK(found(prefixes, keys_of(KV_PAGE + 5)) == KV_PAGE + 5);
    leave(prefixes, Conversation(keys_of(8, 2000)));
    prefixes.trim();
    CHECK(prefixes.kept_bytes() == 3 * PAGE_BYTES);
    CHECK(found(prefixes, keys_of(8, 1000)) == 0);
    CHECK(found(prefixes, keys_of(KV_PAGE + 5)) == KV_PAGE + 5);
    prefixes.resize(PAGE_BYTES);
    CHECK(prefixes.kept_bytes() == PAGE_BYTES);
    CHECK(found(prefixes, keys_of(KV_PAGE + 5)) == KV_PAGE); // the page that leads to another goes after it
    prefixes.resize(0);
    CHECK(prefixes.page_count() == 0);
}

TEST_CASE("the prefix cache takes no page from a session") {
    PrefixCache prefixes(0);
    Conversation conversation(keys_of(2 * KV_PAGE));
    prefixes.insert(conversation.keys, conversation.cache);
    prefixes.trim();
    CHECK(found(prefixes, keys_of(2 * KV_PAGE)) == 2 * KV_PAGE);
    conversation.cache.trim(KV_PAGE);
    prefixes.trim();
    CHECK(found(prefixes, keys_of(2 * KV_PAGE)) == KV_PAGE);
}

TEST_CASE("the prefix cache forgets a page rather than break its budget") {
    for (const bool room : {true, false}) {
        PrefixCache prefixes(room ? PAGE_BYTES : PAGE_BYTES - 1);
        Conversation conversation(keys_of(10));
        prefixes.insert(conversation.keys, conversation.cache);
        CHECK(conversation.cache.shared(0));
        prefixes.before_copy(conversation.cache.page(0));
        CHECK(conversation.cache.shared(0) == room);
    }
}

TEST_CASE("the prefix cache tells embeddings from tokens") {
    const float zeros[4] = {}, ones[4] = {1, 1, 1, 1};
    CHECK(key_of_embedding(zeros, 4) == key_of_embedding(zeros, 4));
    CHECK(!(key_of_embedding(zeros, 4) == key_of_embedding(ones, 4)));
    CHECK(key_of_embedding(zeros, 4).high != 0);
    CHECK(key_of_token(7).high == 0);
    CHECK(!(key_of_token(7) == key_of_token(8)));
}

TEST_CASE("the prefix cache serves several threads") {
    PrefixCache prefixes(4 * PAGE_BYTES);
    std::vector<std::thread> threads;
    for (int32_t index = 0; index < 4; ++index)
        threads.emplace_back([&prefixes, index] {
            for (int32_t step = 0; step < 50; ++step) {
                leave(prefixes, Conversation(keys_of(KV_PAGE + 20, (index + step) % 3)));
                found(prefixes, keys_of(KV_PAGE + 20, step % 3));
                prefixes.trim();
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    prefixes.trim();
    CHECK(prefixes.kept_bytes() <= 4 * PAGE_BYTES);
}

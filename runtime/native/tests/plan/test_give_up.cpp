// The search against all levels that there are, on tables of random costs.
#include "plan/give_up.hpp"
#include "tests/check.hpp"

#include <algorithm>
#include <random>

using namespace v2e;

namespace {

// What each level of each step saves, one after the other.
using Savings = std::vector<std::vector<uint64_t>>;

Savings random_savings(std::mt19937 &random, bool always) {
    Savings savings(1 + random() % 4);
    for (std::vector<uint64_t> &step : savings) {
        step.resize(random() % 5);
        for (uint64_t &saving : step)
            saving = random() % 10 + (always ? 1 : 0);
    }
    return savings;
}

Levels ends_of(const Savings &savings) {
    Levels ends;
    for (const std::vector<uint64_t> &step : savings)
        ends.push_back(step.size());
    return ends;
}

uint64_t saved(const Savings &savings, const Levels &levels) {
    uint64_t sum = 0;
    for (size_t step = 0; step < levels.size(); ++step)
        for (size_t level = 0; level < levels[step]; ++level)
            sum += savings[step][level];
    return sum;
}

// The next of all levels, as digits; false behind the last.
bool count_up(Levels &levels, const Levels &ends) {
    for (size_t step = 0; step < levels.size(); ++step) {
        if (++levels[step] <= ends[step])
            return true;
        levels[step] = 0;
    }
    return false;
}

// Whether the first gives up less: the last steps decide.
bool loses_less(const Levels &a, const Levels &b) {
    return std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend());
}

} // namespace

TEST_CASE("what is given up is the least of all that fits, the last steps counting most") {
    std::mt19937 random(5);
    for (int round = 0; round < 2000; ++round) {
        const Savings savings = random_savings(random, round % 2 == 0);
        const Levels ends = ends_of(savings);
        const uint64_t most = saved(savings, ends), needed = random() % (most + 3);
        Levels last; // that fitted
        const auto fits = [&](const Levels &levels) {
            const bool fitting = saved(savings, levels) >= needed;
            last = fitting ? levels : last;
            return fitting;
        };

        std::optional<Levels> best;
        Levels levels(ends.size(), 0);
        do {
            if (fits(levels) && (!best || loses_less(levels, *best)))
                best = levels;
        } while (count_up(levels, ends));
        const std::optional<Levels> found = give_up(ends, fits);
        CHECK(found.has_value() == best.has_value());
        if (!found || !best)
            continue;
        CHECK(*found == *best);
        CHECK(*found == last);
    }
}

TEST_CASE("what is found fits even where a further level costs more") {
    std::mt19937 random(6);
    for (int round = 0; round < 500; ++round) {
        const Levels ends = {random() % 4, random() % 4, random() % 4};
        std::vector<bool> table(64);
        for (size_t i = 0; i < table.size(); ++i)
            table[i] = random() % 3 == 0;
        const auto fits = [&](const Levels &levels) { return table[levels[0] + 4 * levels[1] + 16 * levels[2]]; };
        const std::optional<Levels> found = give_up(ends, fits);
        if (found)
            CHECK(fits(*found));
        else
            CHECK(!fits(ends));
    }
}

TEST_CASE("nothing is given up where everything fits") {
    int asked = 0;
    const auto fits = [&](const Levels &) { return ++asked > 0; };
    CHECK(give_up({3, 0, 7}, fits) == Levels{0, 0, 0});
    CHECK(asked == 1);
    CHECK(give_up({}, fits) == Levels{});
}

TEST_CASE("where nothing fits the ends were asked last") {
    Levels last;
    const auto fits = [&](const Levels &levels) {
        last = levels;
        return false;
    };
    CHECK(!give_up({3, 7, 0}, fits).has_value());
    CHECK(last == Levels{3, 7, 0});
}

TEST_CASE("a step with many levels takes few questions") {
    int asked = 0;
    const auto fits = [&](const Levels &levels) {
        ++asked;
        return levels[1] >= UINT64_MAX - 5;
    };
    CHECK(give_up({1, UINT64_MAX, 9}, fits) == Levels{0, UINT64_MAX - 5, 0});
    CHECK(asked <= 3 + 64 + 1);
}

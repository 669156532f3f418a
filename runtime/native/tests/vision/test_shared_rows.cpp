// How a product is cut into tasks for threads that share the rows of a tile.
#include "tests/check.hpp"
#include "vision/row_block.hpp"
#include "vision/shared_rows.hpp"

#include <algorithm>
#include <vector>

using namespace v2e;

TEST_CASE("the tasks of a product hold every row with every panel once") {
    for (const size_t rows : {1, 11, 81, 96, 97, 196, 729})
        for (const size_t panels : {1, 2, 7, 112})
            for (const unsigned threads : {1, 2, 16, 1000}) {
                const ProductPlan plan(rows, panels, threads);
                std::vector<int> seen(rows * panels);
                for (size_t task = 0; task < plan.tasks(); ++task) {
                    const size_t row = task % plan.row_blocks * plan.rows;
                    const size_t panel = task / plan.row_blocks * plan.panels;
                    CHECK(row < rows);
                    CHECK(panel < panels);
                    for (size_t y = row; y < std::min(rows, row + plan.rows); ++y)
                        for (size_t x = panel; x < std::min(panels, panel + plan.panels); ++x)
                            ++seen[y * panels + x];
                }
                CHECK(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
            }
}

TEST_CASE("a task's rows fit a block whatever the threads, and there are tasks for all of them") {
    for (const size_t rows : {1, 81, 196, 729}) {
        const ProductPlan one(rows, 112, 1);
        CHECK(one.rows <= MOST_BLOCK_ROWS);
        for (const unsigned threads : {2, 16, 64}) {
            const ProductPlan plan(rows, 112, threads);
            CHECK(plan.rows == one.rows);
            CHECK(plan.tasks() >= std::min<size_t>(threads, 112));
        }
    }
}

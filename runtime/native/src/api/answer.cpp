// The functions of valley2.h about answers.
#include "api/arguments.hpp"
#include "api/handles.hpp"
#include "valley2.h"

using namespace v2e;

v2e_status v2e_answer_next(v2e_answer *answer, uint32_t timeout_ms, v2e_event *event) {
    return guard([&] {
        require(answer, "answer");
        require(event, "event");
        write_struct(answer->answer->next(timeout_ms), event, "event");
    });
}

v2e_status v2e_answer_statistics(const v2e_answer *answer, v2e_statistics *statistics) {
    return guard([&] {
        require(answer, "answer");
        write_struct(answer->answer->statistics(), statistics, "statistics");
    });
}

void v2e_answer_cancel(v2e_answer *answer) {
    if (answer != nullptr)
        guard([&] { answer->answer->cancel(); });
}

v2e_answer *v2e_answer_retain(v2e_answer *answer) {
    if (answer != nullptr)
        answer->holds.fetch_add(1, std::memory_order_relaxed);
    return answer;
}

void v2e_answer_close(v2e_answer *answer) {
    if (answer == nullptr || answer->holds.fetch_sub(1, std::memory_order_acq_rel) > 1)
        return;
    guard([&] { answer->answer->leave(); });
    delete answer;
}

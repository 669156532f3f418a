// Answers, cancels and closes from several threads at once.
#include "tests/conversation/nano.hpp"

#include <array>
#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

namespace {

#if defined(V2E_FEW_ROUNDS) // with a sanitizer
constexpr int CYCLES = 40;
#else
constexpr int CYCLES = 500;
#endif

size_t entries_of(const char *directory) {
    size_t count = 0;
    for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator(directory))
        ++count;
    return count;
}

v2e_question picture_question(const v2e_picture *const *picture) {
    auto question = text_question("What is in the picture?");
    question.pictures = picture;
    question.picture_count = 1;
    question.max_new_tokens = 8;
    return question;
}

} // namespace

TEST_CASE("four threads ask eight sessions of one model, and each gets the answer that it gets alone") {
    const auto model = open_nano();
    std::array<Owned<v2e_picture>, 8> pictures;
    std::array<std::string, 8> alone;
    for (uint32_t i = 0; i < 8; ++i) {
        pictures[i] = make_picture(150 + 20 * i, 200, i);
        const v2e_picture *shown = pictures[i].get();
        alone[i] = ask_and_read(open_session(model.get()).get(), picture_question(&shown)).text;
    }
    auto uncached = nano_options();
    uncached.no_vision_cache = uncached.no_prefix_cache = 1;
    const auto fresh = open_nano(uncached);
    std::array<std::string, 8> together;
    std::vector<std::thread> threads;
    for (uint32_t thread = 0; thread < 4; ++thread)
        threads.emplace_back([&, thread] {
            const uint32_t one = 2 * thread, other = one + 1;
            const auto first = open_session(fresh.get()), second = open_session(fresh.get());
            const v2e_picture *shown = pictures[one].get(), *another = pictures[other].get();
            const auto answer = ask(first.get(), picture_question(&shown));
            together[other] = ask_and_read(second.get(), picture_question(&another)).text;
            together[one] = read_all(answer.get()).text;
        });
    for (std::thread &thread : threads)
        thread.join();
    CHECK(together == alone);
}

TEST_CASE("a cancel in each stage ends the answer, and the session answers as if it had not been asked") {
    const auto model = open_nano();
    const auto picture = make_picture(448, 448, 7);
    const v2e_picture *shown = picture.get();
    const Read expected = ask_and_read(open_session(model.get()).get(), text_question("Hello?"));
    auto uncached = nano_options();
    uncached.no_vision_cache = uncached.no_prefix_cache = 1;
    const auto fresh = open_nano(uncached);
    for (const v2e_event_kind stage :
         {V2E_EVENT_TILE, V2E_EVENT_LAYER, V2E_EVENT_PICTURE, V2E_EVENT_PREFILL, V2E_EVENT_TOKEN}) {
        CAPTURE(stage);
        const auto session = open_session(fresh.get());
        auto question = picture_question(&shown);
        question.token_events = 1;
        question.max_new_tokens = 1000;
        question.most_ahead = 1;
        const auto answer = ask(session.get(), question);
        auto event = sized<v2e_event>();
        while (event.kind != stage && event.kind != V2E_EVENT_END)
            REQUIRE(v2e_answer_next(answer.get(), V2E_FOREVER, &event) == V2E_OK);
        v2e_answer_cancel(answer.get());
        CHECK(read_all(answer.get()).reason == V2E_STOP_CANCELLED);
        if (stage != V2E_EVENT_TOKEN) {
            CHECK(describe(session.get()).turn_count <= 1);
            const auto other = open_session(fresh.get());
            CHECK(ask_and_read(other.get(), text_question("Hello?")).text == expected.text);
        }
        CHECK(ask_and_read(session.get(), text_question("Hello?")).status == V2E_OK);
    }
}

TEST_CASE("a question's own cancel handle stops it wherever it waits") {
    const auto model = open_nano();
    v2e_cancel *cancel = nullptr;
    REQUIRE(v2e_cancel_create(&cancel) == V2E_OK);
    auto question = text_question("Tell me more.");
    question.cancel = cancel;
    question.most_ahead = 1;
    question.max_new_tokens = 1000;
    const auto session = open_session(model.get());
    const auto answer = ask(session.get(), question);
    v2e_cancel_set(cancel);
    v2e_cancel_destroy(cancel);
    CHECK(read_all(answer.get()).reason == V2E_STOP_CANCELLED);
}

TEST_CASE("model and session may be closed while an answer is computed") {
    auto model = open_nano();
    auto session = open_session(model.get());
    auto question = text_question("Tell me more.");
    question.max_new_tokens = 1000;
    const auto answer = ask(session.get(), question);
    auto event = sized<v2e_event>();
    while (event.kind != V2E_EVENT_TEXT)
        REQUIRE(v2e_answer_next(answer.get(), V2E_FOREVER, &event) == V2E_OK);
    model.reset();
    session.reset();
    CHECK(read_all(answer.get()).reason == V2E_STOP_LEFT);
}

TEST_CASE("threads that hold an answer may cancel it while another one closes it") {
    const auto model = open_nano();
    for (int round = 0; round < 20; ++round) {
        const auto session = open_session(model.get());
        v2e_answer *answer = ask(session.get(), text_question("Tell me more.")).release();
        std::vector<std::thread> threads;
        for (int i = 0; i < 3; ++i)
            threads.emplace_back([held = v2e_answer_retain(answer)] {
                v2e_answer_cancel(held);
                v2e_answer_close(held);
            });
        v2e_answer_close(answer);
        for (std::thread &thread : threads)
            thread.join();
    }
}

TEST_CASE("whoever is notified finds something to read") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    std::atomic<int> told{0};
    auto question = text_question("Hello?");
    question.notify = [](void *count) { ++*static_cast<std::atomic<int> *>(count); };
    question.notify_data = &told;
    const auto answer = ask(session.get(), question);
    std::string text;
    auto event = sized<v2e_event>();
    while (event.kind != V2E_EVENT_END) {
        while (told.load() == 0)
            std::this_thread::yield();
        told = 0;
        do {
            REQUIRE(v2e_answer_next(answer.get(), 0, &event) == V2E_OK);
            if (event.kind == V2E_EVENT_TEXT)
                text.append(event.text, event.size);
        } while (event.kind != V2E_EVENT_NONE && event.kind != V2E_EVENT_END);
    }
    CHECK(text == ask_and_read(open_session(model.get()).get(), text_question("Hello?")).text);
}

#if defined(__linux__)
TEST_CASE("opening and closing leaves no threads and no files behind") {
    size_t threads = 0, files = 0;
    for (int cycle = 0; cycle < CYCLES; ++cycle) {
        {
            const auto model = open_nano();
            const auto session = open_session(model.get());
            const auto answer = ask(session.get(), text_question("Hello?"));
            auto event = sized<v2e_event>();
            if (cycle % 10 == 0)
                read_all(answer.get());
            else
                REQUIRE(v2e_answer_next(answer.get(), 0, &event) == V2E_OK);
        }
        if (cycle == 10) {
            threads = entries_of("/proc/self/task");
            files = entries_of("/proc/self/fd");
        }
    }
    CHECK(entries_of("/proc/self/task") == threads);
    CHECK(entries_of("/proc/self/fd") == files);
}
#endif

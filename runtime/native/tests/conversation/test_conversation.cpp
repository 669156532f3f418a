// Conversations through the header: what is asked, read, kept, saved and refused.
#include "tests/conversation/nano.hpp"
#include "tests/temporary_file.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

TEST_CASE("a question about a picture is answered, and the statistics say what it took") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const auto picture = make_picture(300, 200, 1);
    const v2e_picture *shown = picture.get();
    auto question = text_question("What is in the picture?");
    question.pictures = &shown;
    question.picture_count = 1;
    question.token_events = 1;
    const auto answer = ask(session.get(), question);
    const Read read = read_all(answer.get());
    CHECK(read.status == V2E_OK);
    CHECK((read.reason == V2E_STOP_TOKEN || read.reason == V2E_STOP_LENGTH));
    for (const v2e_event_kind kind : {V2E_EVENT_TILE, V2E_EVENT_PICTURE, V2E_EVENT_PREFILL, V2E_EVENT_TOKEN})
        CHECK(std::count(read.kinds.begin(), read.kinds.end(), kind) > 0);
    auto statistics = sized<v2e_statistics>();
    CHECK(v2e_answer_statistics(answer.get(), &statistics) == V2E_OK);
    CHECK(statistics.pictures == 1);
    CHECK(statistics.new_tokens == read.tokens.size());
    CHECK(statistics.siglip_tokens > 0);
    CHECK(statistics.eagle_tokens > 0);
    CHECK(statistics.context_used == describe(session.get()).length);
    CHECK(statistics.context_used ==
          statistics.text_tokens + statistics.siglip_tokens + statistics.eagle_tokens + statistics.new_tokens);
    CHECK(statistics.stop == read.reason);
    CHECK(statistics.total_seconds > 0);
    CHECK(turn_of(session.get(), 0).answer == read.text);
    CHECK(turn_of(session.get(), 0).pictures == 1);
    auto event = sized<v2e_event>();
    CHECK(v2e_answer_next(answer.get(), 0, &event) == V2E_OK);
    CHECK(event.kind == V2E_EVENT_END);
}

TEST_CASE("a reader who comes late misses no tile, and finds a token's text behind the token") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const auto picture = make_picture(800, 600, 3);
    const v2e_picture *shown = picture.get();
    auto question = text_question("What is in the picture?");
    question.pictures = &shown;
    question.picture_count = 1;
    question.token_events = 1;
    question.most_ahead = 1;
    const auto answer = ask(session.get(), question);
    auto statistics = sized<v2e_statistics>();
    while (statistics.new_tokens == 0) { // nothing is read until a token waits
        REQUIRE(v2e_answer_statistics(answer.get(), &statistics) == V2E_OK);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    uint64_t tiles = 0;
    auto event = sized<v2e_event>();
    do {
        REQUIRE(v2e_answer_next(answer.get(), V2E_FOREVER, &event) == V2E_OK);
        if (event.kind == V2E_EVENT_TILE && event.done > 0)
            CHECK(event.done == ++tiles);
    } while (event.kind != V2E_EVENT_TOKEN);
    CHECK(tiles == statistics.tiles);
    REQUIRE(v2e_answer_next(answer.get(), 0, &event) == V2E_OK);
    CHECK(event.kind == V2E_EVENT_TEXT);
}

TEST_CASE("a list of messages is the conversation that it tells") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const auto picture = make_picture(200, 200, 2);
    const v2e_picture *shown = picture.get();
    auto first = text_question("What is in the picture?");
    first.pictures = &shown;
    first.picture_count = 1;
    const Read one = ask_and_read(session.get(), first);
    auto second = text_question("And what else?");
    second.token_events = 1;
    const Read two = ask_and_read(session.get(), second);

    const v2e_part asked[] = {{nullptr, shown}, {first.text, nullptr}}, said[] = {{one.text.c_str(), nullptr}},
                   more[] = {{"And what ", nullptr}, {"else?", nullptr}};
    const v2e_message messages[] = {
        {V2E_ROLE_USER, 0, asked, 2}, {V2E_ROLE_ASSISTANT, 0, said, 1}, {V2E_ROLE_USER, 0, more, 2}};
    auto whole = text_question(nullptr);
    whole.token_events = 1;
    whole.messages = messages;
    whole.message_count = 3;
    const auto other = open_session(model.get());
    const Read again = ask_and_read(other.get(), whole);
    CHECK(again.tokens == two.tokens);
    CHECK(describe(other.get()).turn_count == 2);
    CHECK(turn_of(other.get(), 0).answer == one.text);
    CHECK(describe(other.get()).length == describe(session.get()).length);
}

TEST_CASE("a system prompt comes first") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const v2e_part rule[] = {{"Say nothing.", nullptr}}, asked[] = {{"Hello?", nullptr}};
    const v2e_message messages[] = {{V2E_ROLE_SYSTEM, 0, rule, 1}, {V2E_ROLE_USER, 0, asked, 1}};
    auto question = text_question(nullptr);
    question.messages = messages;
    question.message_count = 2;
    auto options = sized<v2e_session_options>();
    options.system = "Say nothing.";
    const auto same = open_session(model.get(), &options);
    CHECK(ask_and_read(session.get(), question).text == ask_and_read(same.get(), text_question("Hello?")).text);
    CHECK(describe(session.get()).length == describe(same.get()).length);
    v2e_answer *answer = nullptr;
    CHECK(v2e_session_ask(session.get(), &question, &answer) == V2E_ERROR_INPUT);
    CHECK(std::string(v2e_last_error()).find("comes first") != std::string::npos);
}

TEST_CASE("an answer that is closed half way stays as far as it was read") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const Read whole = ask_and_read(open_session(model.get()).get(), text_question("Count."));
    std::string read;
    {
        const auto answer = ask(session.get(), text_question("Count."));
        auto event = sized<v2e_event>();
        while (event.kind != V2E_EVENT_TEXT)
            REQUIRE(v2e_answer_next(answer.get(), V2E_FOREVER, &event) == V2E_OK);
        read.assign(event.text, event.size);
    }
    REQUIRE(read.size() < whole.text.size());
    CHECK(whole.text.starts_with(read));
    CHECK(turn_of(session.get(), 0).answer == read);
    CHECK(ask_and_read(session.get(), text_question("Go on.")).status == V2E_OK);
    CHECK(describe(session.get()).turn_count == 2);
}

TEST_CASE("a question that nothing was read of leaves no trace") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    ask(session.get(), text_question("Hello?"));
    CHECK(describe(session.get()).length == 0);
    CHECK(describe(session.get()).turn_count == 0);
}

TEST_CASE("a new question ends the answer before it") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const auto first = ask(session.get(), text_question("Hello?"));
    const auto second = ask(session.get(), text_question("Hello?"));
    const Read read = read_all(first.get());
    CHECK(read.reason == V2E_STOP_LEFT);
    CHECK(read.text.empty());
    CHECK(read_all(second.get()).text == ask_and_read(open_session(model.get()).get(), text_question("Hello?")).text);
}

TEST_CASE("a stop text ends the answer before it") {
    const auto model = open_nano();
    auto question = text_question("Tell me more.");
    question.temperature = 1000; // what nano says by itself is short
    question.fixed_seed = 1;
    const Read whole = ask_and_read(open_session(model.get()).get(), question);
    const auto is_letter = [](char byte) { return byte > ' ' && byte < 0x7f; };
    size_t place = 4;
    while (place + 1 < whole.text.size() && !(is_letter(whole.text[place]) && is_letter(whole.text[place + 1])))
        ++place;
    const std::string wanted = whole.text.substr(std::min(place, whole.text.size()), 2);
    REQUIRE(wanted.size() == 2);
    const char *stop = wanted.c_str();
    question.stop_texts = &stop;
    question.stop_text_count = 1;
    const auto session = open_session(model.get());
    const Read read = ask_and_read(session.get(), question);
    CHECK(read.reason == V2E_STOP_TEXT);
    CHECK(read.text == whole.text.substr(0, whole.text.find(wanted)));
    CHECK(turn_of(session.get(), 0).answer == read.text);
}

TEST_CASE("an answer waits for its reader when it may not go ahead of him") {
    const auto model = open_nano();
    auto question = text_question("Tell me more.");
    question.temperature = 1000;
    question.fixed_seed = 1;
    const Read whole = ask_and_read(open_session(model.get()).get(), question);
    question.most_ahead = 1;
    const auto session = open_session(model.get());
    const auto answer = ask(session.get(), question);
    question.most_ahead = 0;
    const Read other = ask_and_read(open_session(model.get()).get(), question);
    auto statistics = sized<v2e_statistics>();
    CHECK(v2e_answer_statistics(answer.get(), &statistics) == V2E_OK);
    CHECK(statistics.new_tokens <= 4);
    CHECK(other.text == whole.text);
    CHECK(read_all(answer.get()).text == whole.text);
}

TEST_CASE("sampling with a seed repeats, and without one the statistics tell the seed") {
    const auto model = open_nano();
    auto question = text_question("Tell me more.");
    question.temperature = 1.5f;
    question.token_events = 1;
    const auto session = open_session(model.get());
    const auto answer = ask(session.get(), question);
    const Read read = read_all(answer.get());
    auto statistics = sized<v2e_statistics>();
    REQUIRE(v2e_answer_statistics(answer.get(), &statistics) == V2E_OK);
    question.fixed_seed = 1;
    question.seed = statistics.seed;
    CHECK(ask_and_read(open_session(model.get()).get(), question).tokens == read.tokens);
}

TEST_CASE("a saved conversation goes on as it would have") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const auto picture = make_picture(200, 300, 3);
    const v2e_picture *shown = picture.get();
    auto question = text_question("What is in the \"picture\"?");
    question.pictures = &shown;
    question.picture_count = 1;
    ask_and_read(session.get(), question);
    const TemporaryFile file("");
    REQUIRE_MESSAGE(v2e_session_save(session.get(), file.path().c_str()) == V2E_OK, v2e_last_error());
    v2e_session *loaded = nullptr;
    REQUIRE_MESSAGE(v2e_session_load(model.get(), file.path().c_str(), &loaded) == V2E_OK, v2e_last_error());
    const Owned<v2e_session> other(loaded);
    CHECK(describe(loaded).length == describe(session.get()).length);
    CHECK(std::string(turn_of(loaded, 0).question) == question.text);
    CHECK(std::string(turn_of(loaded, 0).answer) == turn_of(session.get(), 0).answer);
    CHECK(ask_and_read(loaded, text_question("And?")).text == ask_and_read(session.get(), text_question("And?")).text);
}

TEST_CASE("what makes no sense is refused by a sentence") {
    const auto model = open_nano();
    const auto session = open_session(model.get());
    const auto refuses = [&](const v2e_question &question, const char *part) {
        v2e_answer *answer = nullptr;
        CHECK(v2e_session_ask(session.get(), &question, &answer) == V2E_ERROR_INPUT);
        CHECK_MESSAGE(std::string(v2e_last_error()).find(part) != std::string::npos, v2e_last_error());
        CHECK(answer == nullptr);
    };
    refuses(text_question("  \n"), "is empty");
    refuses(text_question("\xff"), "UTF-8");
    auto question = text_question("Hello?");
    question.think = question.no_think = 1;
    refuses(question, "contradict");
    question = text_question("Hello?");
    question.temperature = -1;
    refuses(question, "temperature");
    question = text_question("Hello?");
    question.picture_count = 1;
    refuses(question, "pictures");
    const v2e_part part[] = {{"Hello?", nullptr}};
    const v2e_message messages[] = {
        {V2E_ROLE_USER, 0, part, 1}, {V2E_ROLE_USER, 0, part, 1}, {V2E_ROLE_USER, 0, part, 1}};
    question = text_question(nullptr);
    question.messages = messages;
    question.message_count = 3;
    refuses(question, "by turns");
    auto options = sized<v2e_session_options>();
    options.eagle_max_tokens = 3;
    options.eagle_min_tokens = 9;
    v2e_session *none = nullptr;
    CHECK(v2e_session_open(model.get(), &options, &none) == V2E_ERROR_INPUT);
    options = sized<v2e_session_options>();
    options.policy = 9;
    CHECK(v2e_session_open(model.get(), &options, &none) == V2E_ERROR_INPUT);
    CHECK(v2e_session_load(model.get(), "/no/such/file", &none) == V2E_ERROR_INPUT);
    CHECK(describe(session.get()).length == 0);
}

TEST_CASE("a question that does not fit fails in the answer and leaves no trace") {
    const auto model = open_nano();
    auto options = sized<v2e_session_options>();
    options.context_length = 64;
    const auto session = open_session(model.get(), &options);
    const auto picture = make_picture(448, 448, 4);
    const v2e_picture *shown = picture.get();
    auto question = text_question("What is in the picture?");
    question.pictures = &shown;
    question.picture_count = 1;
    const auto answer = ask(session.get(), question);
    CHECK(read_all(answer.get()).status == V2E_ERROR_BUDGET);
    CHECK(std::string(v2e_last_error()).find("It would fit with") != std::string::npos);
    CHECK(read_all(answer.get()).status == V2E_ERROR_BUDGET);
    CHECK(describe(session.get()).length == 0);
    CHECK(ask_and_read(session.get(), text_question("Hi")).status == V2E_OK);
}

TEST_CASE("a limit on memory gives up what it must, and a plan says so before") {
    auto request = sized<v2e_plan_request>();
    const v2e_picture_size size{3500, 3500};
    request.pictures = &size;
    request.picture_count = 1;
    request.process_bytes = 64 << 20;
    auto plan = sized<v2e_memory_plan>();
    REQUIRE_MESSAGE(v2e_model_plan(V2E_NANO, &request, &plan, nullptr) == V2E_OK, v2e_last_error());
    auto limited = nano_options();
    limited.memory = plan.peak_bytes - 1;
    request.model = &limited;
    auto less = sized<v2e_memory_plan>();
    auto choice = sized<v2e_memory_choice>();
    REQUIRE_MESSAGE(v2e_model_plan(V2E_NANO, &request, &less, &choice) == V2E_OK, v2e_last_error());
    CHECK(less.peak_bytes < plan.peak_bytes);
    CHECK(std::string(choice.changes) != "");
    auto options = nano_options();
    options.memory = 1 << 20;
    v2e_model *model = nullptr;
    CHECK(v2e_model_open(V2E_NANO, &options, &model) == V2E_ERROR_BUDGET);
    options.memory = uint64_t{8} << 30;
    const auto opened = open_nano(options);
    CHECK(describe(open_session(opened.get()).get()).planned_bytes > 0);
}

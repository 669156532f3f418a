/* Generates token ids after a prompt of token ids, through the C header alone.
 *
 *   cc -std=c99 -I runtime/native/include examples/generate.c -o generate -L DIRECTORY_OF_THE_LIBRARY -lvalley2
 *   ./generate BUNDLE/decoder 16 785 3974 13876
 *
 * The second argument is the largest number of new tokens, the rest is the prompt.
 */
#include <stdio.h>
#include <stdlib.h>

#include "valley2.h"

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, v2e_last_error());
    return EXIT_FAILURE;
}

static int print_event(const v2e_event *event, void *user_data) {
    (void)user_data;
    if (event->kind == V2E_EVENT_TOKEN) {
        printf("%d ", (int)event->token);
        fflush(stdout);
    }
    return 0; /* anything else cancels */
}

static int generate(v2e_session *session, const int32_t *prompt, size_t count, uint32_t max_new_tokens) {
    v2e_segment segment = {prompt, NULL, count};
    v2e_generate_options options = {.struct_size = sizeof options};
    v2e_stop_reason reason;

    if (v2e_session_prefill(session, &segment, 1, 1, NULL, NULL) != V2E_OK)
        return fail("prefill");
    options.max_new_tokens = max_new_tokens;
    if (v2e_session_generate(session, &options, print_event, NULL, &reason) != V2E_OK)
        return fail("generate");
    printf("\n%s\n", reason == V2E_STOP_CONTEXT ? "The context is full." : "Done.");
    return EXIT_SUCCESS;
}

static int run(const v2e_model *model, int prompt_count, char **prompt_words, uint32_t max_new_tokens) {
    v2e_session_options options = {.struct_size = sizeof options};
    v2e_session *session;
    int result = EXIT_FAILURE;
    int32_t *prompt = malloc((size_t)prompt_count * sizeof *prompt);

    if (prompt == NULL) {
        fputs("out of memory\n", stderr);
        return EXIT_FAILURE;
    }
    for (int i = 0; i < prompt_count; ++i)
        prompt[i] = (int32_t)strtol(prompt_words[i], NULL, 10);
    if (v2e_session_open(model, &options, &session) != V2E_OK) {
        fail("open session");
    } else {
        result = generate(session, prompt, (size_t)prompt_count, max_new_tokens);
        v2e_session_close(session);
    }
    free(prompt);
    return result;
}

int main(int argc, char **argv) {
    v2e_model_options options = {.struct_size = sizeof options};
    v2e_model *model;
    int result;

    if (argc < 4) {
        fprintf(stderr, "usage: %s DECODER_DIRECTORY MAX_NEW_TOKENS TOKEN...\n", argv[0]);
        return EXIT_FAILURE;
    }
    if (v2e_model_open(argv[1], &options, &model) != V2E_OK)
        return fail("open model");
    result = run(model, argc - 3, argv + 3, (uint32_t)strtoul(argv[2], NULL, 10));
    v2e_model_close(model);
    return result;
}

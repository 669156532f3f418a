/* Shows a picture to Valley2, asks a question in words, and prints the answer as it comes.
 *
 *   cc -std=c99 chat.c -o chat $(pkg-config --cflags --libs valley2)
 *   ./chat my-bundle picture.jpg "What is in the picture?"
 */
#include <stdio.h>
#include <stdlib.h>

#include <valley2.h>

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, v2e_last_error());
    return EXIT_FAILURE;
}

static v2e_status read_picture(const char *path, v2e_picture **picture) {
    static unsigned char bytes[64 << 20]; /* no picture that a camera takes is larger */
    FILE *file = fopen(path, "rb");
    const size_t size = file == NULL ? 0 : fread(bytes, 1, sizeof bytes, file);
    v2e_picture_options options = {.struct_size = sizeof options};

    if (file != NULL)
        fclose(file);
    options.name = path;
    return v2e_picture_decode(bytes, size, &options, picture);
}

static int ask(v2e_session *session, const char *text, const v2e_picture *picture) {
    v2e_question question = {.struct_size = sizeof question};
    v2e_event event = {.struct_size = sizeof event};
    v2e_answer *answer = NULL;
    v2e_status status;

    question.text = text;
    question.pictures = &picture;
    question.picture_count = 1;
    status = v2e_session_ask(session, &question, &answer);
    while (status == V2E_OK && event.kind != V2E_EVENT_END) {
        status = v2e_answer_next(answer, V2E_FOREVER, &event);
        if (status == V2E_OK && event.kind == V2E_EVENT_TEXT) {
            fwrite(event.text, 1, event.size, stdout);
            fflush(stdout);
        }
    }
    v2e_answer_close(answer);
    if (status != V2E_OK)
        return fail("answer");
    puts("");
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    v2e_model *model = NULL;
    v2e_session *session = NULL;
    v2e_picture *picture = NULL;
    int result = EXIT_FAILURE;

    if (argc != 4)
        fprintf(stderr, "usage: %s BUNDLE PICTURE QUESTION\n", argv[0]);
    else if (v2e_model_open(argv[1], NULL, &model) != V2E_OK || v2e_session_open(model, NULL, &session) != V2E_OK)
        fail("model");
    else if (read_picture(argv[2], &picture) != V2E_OK)
        fail("picture");
    else
        result = ask(session, argv[3], picture);
    v2e_picture_close(picture);
    v2e_session_close(session);
    v2e_model_close(model);
    return result;
}

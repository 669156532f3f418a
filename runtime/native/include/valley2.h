/* valley2.h: Valley2 in a program of your own. A picture and a question go in, text comes out.
 *
 * Usage, without error handling:
 *
 *     v2e_model_options model_options = {sizeof model_options};
 *     v2e_model *model = NULL;
 *     v2e_model_open("my-bundle", &model_options, &model);
 *
 *     v2e_session_options session_options = {sizeof session_options};
 *     v2e_session *session = NULL;
 *     v2e_session_open(model, &session_options, &session);
 *
 *     v2e_picture *picture = NULL;
 *     v2e_picture_decode(bytes, size, NULL, &picture);   // the bytes of a JPEG, PNG, WebP, GIF or BMP
 *
 *     v2e_question question = {sizeof question};
 *     question.text = "What is in the picture?";
 *     question.pictures = (const v2e_picture *const *)&picture;
 *     question.picture_count = 1;
 *     v2e_answer *answer = NULL;
 *     v2e_session_ask(session, &question, &answer);      // returns at once
 *
 *     v2e_event event = {sizeof event};
 *     while (v2e_answer_next(answer, V2E_FOREVER, &event) == V2E_OK && event.kind != V2E_EVENT_END)
 *         if (event.kind == V2E_EVENT_TEXT)
 *             fwrite(event.text, 1, event.size, stdout);
 *
 *     v2e_answer_close(answer);
 *     v2e_picture_close(picture);
 *     v2e_session_close(session);
 *     v2e_model_close(model);
 *
 * Objects.
 *   - A model is a loaded bundle. It is immutable, and threads share it. It has one thread that answers, asleep when
 *     nobody asks, and a pool of threads that compute for it. Nothing is computed on a caller's thread, but for what
 *     opens, plans, decodes a picture, saves and loads.
 *   - A picture is decoded once and never changes; threads share it.
 *   - A session is a conversation. Its functions may be called by every thread; calls of one session wait for one
 *     another, and none of them waits for an answer but for the end of the piece of work that is going on.
 *   - An answer is pulled by v2e_answer_next, event by event. The work goes on in the meantime.
 *   - A handle is good until its close function is called. What others still need of it lives on: a model may be closed
 *     before its sessions, a session before its answers, a picture as soon as it was asked about.
 *
 * Rules.
 *   - Every call that can fail returns a v2e_status; v2e_last_error() then gives one sentence. It is
 *     thread-local and stays valid until the next failing call of the same thread.
 *   - Every options struct begins with its own size. Zero is the default of every field: a struct that is zero but for
 *     its size asks for nothing but defaults, and AUTO is 0 in every enum that an option takes. A struct that is
 *     smaller than the library's is accepted, so that older callers go on working. A larger one is of a newer header:
 *     it is accepted while what the library does not know is zero, and else V2E_ERROR_INPUT.
 *   - A struct that the library fills in begins with its size as well, which its caller sets; no more than that is
 *     written.
 *   - Texts and paths are UTF-8, on Windows too, and are copied. Texts that the library hands out belong to it; their
 *     function says how long they last.
 *   - Callbacks run on the thread that calls the function that they are given to, except for v2e_question.notify. Each
 *     says what is legal in it. No exception may leave one.
 *   - Nothing is printed, nothing exits, nothing throws across this header. There is no global state.
 *   - Files are mapped, not read. One that becomes shorter or is written to while it is in use makes calls fail with
 *     V2E_ERROR_BUNDLE; replace files by renaming others to their names. For this there is a handler of SIGBUS while
 *     files are mapped, except on Windows: signals that are not about these files go to the handler that it found, and
 *     where there was none, on Linux, a line on stderr names the file of another library that ends the process. A
 *     handler that a program installs later should do likewise.
 *   - Files, sizes and numbers may come from strangers: what is too large or makes no sense is refused. Pointers are
 *     the caller's: they are aligned for their type and as long as the call says.
 *   - Arrays are dense and row-major.
 */
#ifndef VALLEY2_H
#define VALLEY2_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header. v2e_version() says the library's; those with the same first number go together. */
#define V2E_VERSION_MAJOR 0
#define V2E_VERSION_MINOR 1
#define V2E_VERSION_PATCH 0

#define V2E_FOREVER UINT32_MAX /* a timeout that never comes */

#if defined(_WIN32)
#if defined(V2E_BUILDING)
#define V2E_API __declspec(dllexport)
#else
#define V2E_API __declspec(dllimport)
#endif
#else
#define V2E_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- status */

typedef enum v2e_status {
    V2E_OK = 0,
    V2E_ERROR_INPUT = 1,     /* an argument or a picture is not acceptable */
    V2E_ERROR_BUNDLE = 2,    /* a file of the bundle is missing, truncated or not understood */
    V2E_ERROR_BUDGET = 3,    /* the context or the memory does not suffice */
    V2E_ERROR_CANCELLED = 4, /* a cancel or an event callback stopped the call */
    V2E_ERROR_NUMERIC = 5,   /* a NaN or an infinity; the message names the stage */
    V2E_ERROR_INTERNAL = 6,  /* a bug in the library */
    V2E_ERROR_ENGINE = 7,    /* a backend cannot compute a component here; the core's own engine can */
    V2E_ERROR_UNREAD = 8     /* a file is of a kind or a variant that this library does not read; it may be good */
} v2e_status;

/* One sentence about the calling thread's last failure; "" when there was none. */
V2E_API const char *v2e_last_error(void);

/* The library's version, "major.minor.patch". */
V2E_API const char *v2e_version(void);

/* ---------------------------------------------------------------- events */

typedef enum v2e_event_kind {
    V2E_EVENT_NONE = 0,     /* nothing has happened in the time that was waited for */
    V2E_EVENT_PREFILL = 1,  /* done of total positions of the prompt are in the KV cache */
    V2E_EVENT_TOKEN = 2,    /* a token was chosen; done counts the new tokens, of total at most */
    V2E_EVENT_LAYER = 3,    /* done of total layers of a vision tower are computed: Eagle's, for one picture */
    V2E_EVENT_PIXELS = 4,   /* a picture is decoded, resized or cut, for some ms since the last event; no numbers */
    V2E_EVENT_TEXT = 5,     /* a piece of the answer: `size` bytes at `text`, whole characters */
    V2E_EVENT_END = 6,      /* the answer is over; `reason` says why */
    V2E_EVENT_CHECK = 7,    /* done of total bytes of a bundle's files are checked */
    V2E_EVENT_LOAD = 8,     /* done of total parts of a bundle are loaded */
    V2E_EVENT_TILE = 9,     /* done of total tiles of a question's pictures went through SigLIP and its projector */
    V2E_EVENT_PICTURE = 10, /* done of total pictures went through Eagle */
    V2E_EVENT_WARNING = 11  /* something a person should know, which is no failure: a sentence at `text` */
} v2e_event_kind;

/* Why an answer, or a call that generates tokens, has ended. */
typedef enum v2e_stop_reason {
    V2E_STOP_NONE = 0,      /* it has not, or it failed */
    V2E_STOP_TOKEN = 1,     /* a stop token; it is neither reported nor put into the KV cache */
    V2E_STOP_LENGTH = 2,    /* max_new_tokens */
    V2E_STOP_CONTEXT = 3,   /* the context is full */
    V2E_STOP_TEXT = 4,      /* one of the question's stop_texts, which is not part of the answer */
    V2E_STOP_CANCELLED = 5, /* v2e_answer_cancel, or the question's cancel handle */
    V2E_STOP_LEFT = 6       /* the session was asked something else, saved or closed, or the answer was closed */
} v2e_stop_reason;

typedef struct v2e_event {
    size_t struct_size;
    v2e_event_kind kind;
    uint64_t done;
    uint64_t total;
    int32_t token;     /* V2E_EVENT_TOKEN only */
    double elapsed_ms; /* since the call began, or the question was asked */
    const char *text;  /* UTF-8, with a NUL behind it */
    size_t size;       /* bytes of the text, without the NUL */
    uint32_t reason;   /* v2e_stop_reason; V2E_EVENT_END only */
} v2e_event;

/* Return 0 to go on; anything else cancels the call, with V2E_ERROR_CANCELLED. Legal in it: v2e_cancel_set,
 * v2e_answer_cancel, and every function of other objects than the ones that the call works on. */
typedef int (*v2e_event_callback)(const v2e_event *event, void *user_data);

/* ---------------------------------------------------------------- cancel
 * A flag that asks running work to stop. It has a life of its own: every function here is legal from any thread at any
 * time, also while calls look at the flag and after what they worked on is closed. Calls keep what they need of it. */

typedef struct v2e_cancel v2e_cancel;

V2E_API v2e_status v2e_cancel_create(v2e_cancel **cancel);
/* Stops the calls that were given this handle, and those that will be, with V2E_ERROR_CANCELLED, until
 * v2e_cancel_clear. A call that has seen it stops even when the flag is cleared in the meantime. NULL is allowed. */
V2E_API void v2e_cancel_set(v2e_cancel *cancel);
/* NULL is allowed. */
V2E_API void v2e_cancel_clear(v2e_cancel *cancel);
/* Gives the handle up; it may not be used afterwards. Calls that look at the flag go on, and nothing can stop them by
 * it any more. NULL is allowed. */
V2E_API void v2e_cancel_destroy(v2e_cancel *cancel);

/* ---------------------------------------------------------------- pictures
 * A picture is decoded once and never changes: threads may share it. Its pixels are those that Pillow gives for the
 * same bytes, of an animation the first frame; alpha is dropped without compositing, and more than 8 bits are scaled to
 * 8 (docs/pictures.md). */

/* What a file is, told from its bytes. */
typedef enum v2e_picture_kind {
    V2E_PICTURE_UNKNOWN = 0, /* none of these: another kind of picture, or none */
    V2E_PICTURE_JPEG = 1,
    V2E_PICTURE_PNG = 2,
    V2E_PICTURE_WEBP = 3,
    V2E_PICTURE_GIF = 4,
    V2E_PICTURE_BMP = 5,
    V2E_PICTURE_PIXELS = 6 /* no file: v2e_picture_from_pixels */
} v2e_picture_kind;

/* How a host's pixels lie in memory: bytes in this order. Alpha, and the fourth byte of a format that ignores it, are
 * dropped; QImage's Format_RGB32 and most windows' surfaces are BGRA. */
typedef enum v2e_pixel_format {
    V2E_PIXELS_RGB = 0,
    V2E_PIXELS_RGBA = 1,
    V2E_PIXELS_BGR = 2,
    V2E_PIXELS_BGRA = 3,
    V2E_PIXELS_GREY = 4
} v2e_pixel_format;

typedef struct v2e_picture_options {
    size_t struct_size;
    uint64_t max_pixels;         /* width times height at most, 178956970 at most; 0: 100000000. Read in the header,
                                    before anything is decoded. A file has 8 bytes for each, and 64 MiB, at most. */
    uint32_t strict;             /* 1: as the model's authors' code: no EXIF orientation, 16 bits cut off at 255 */
    const char *name;            /* what messages call the picture, UTF-8; NULL: "The picture" */
    const v2e_cancel *cancel;    /* stops the call within some rows; NULL: nothing does */
    v2e_event_callback callback; /* hears V2E_EVENT_PIXELS; NULL: nobody does */
    void *user_data;             /* handed to the callback */
} v2e_picture_options;

typedef struct v2e_picture_description {
    size_t struct_size;
    uint32_t kind;        /* v2e_picture_kind */
    uint32_t readable;    /* 1: v2e_picture_decode reads it; 0: it is of a kind, a variant or a build that does not */
    uint32_t width;       /* pixels, as v2e_picture_decode turns it; this and the following are 0 when not readable */
    uint32_t height;      /* pixels */
    uint32_t orientation; /* what the EXIF data say, 1 to 8; 1 with strict and where they say nothing */
    uint32_t frames;      /* of an animation; 1 for a still picture */
} v2e_picture_description;

typedef struct v2e_picture v2e_picture;

/* The v2e_picture_kind of a file, from its first 16 bytes or more. */
V2E_API uint32_t v2e_picture_kind_of(const void *bytes, size_t size);
/* Reads the headers of a file in memory and decodes nothing. What is too large or has a damaged header fails as
 * v2e_picture_decode would; damaged pixels are not noticed. options: NULL for the defaults. */
V2E_API v2e_status v2e_picture_inspect(const void *bytes, size_t size, const v2e_picture_options *options,
                                       v2e_picture_description *description);
/* Decodes a file in memory, which nobody needs afterwards. Fails with V2E_ERROR_INPUT when it is no picture, damaged,
 * truncated, empty or too large, and with V2E_ERROR_UNREAD when v2e_picture_inspect says that it is not readable.
 * options: NULL for the defaults. */
V2E_API v2e_status v2e_picture_decode(const void *bytes, size_t size, const v2e_picture_options *options,
                                      v2e_picture **picture);
/* Copies pixels. pixels: the first byte of the upper row. stride: bytes from a row to the next one below, negative when
 * rows lie upside down in memory; 0: rows follow one another. format: v2e_pixel_format. options: NULL for the
 * defaults; strict means nothing here. */
V2E_API v2e_status v2e_picture_from_pixels(const void *pixels, uint32_t width, uint32_t height, ptrdiff_t stride,
                                           uint32_t format, const v2e_picture_options *options, v2e_picture **picture);
V2E_API v2e_status v2e_picture_describe(const v2e_picture *picture, v2e_picture_description *description);
/* What the picture is known by: BLAKE2b-256 of its width and its height, four bytes each with the lowest first, and its
 * pixels. digest: (32,). The first call computes it: some milliseconds for a million pixels. */
V2E_API v2e_status v2e_picture_digest(const v2e_picture *picture, uint8_t *digest);
/* (height, width, 3) uint8 RGB, rows without gaps; they last until the picture is closed. NULL for NULL. */
V2E_API const uint8_t *v2e_picture_pixels(const v2e_picture *picture);
/* Sessions and answers that were given the picture keep what they need of it. NULL is allowed. */
V2E_API void v2e_picture_close(v2e_picture *picture);

/* ---------------------------------------------------------------- backends
 * Another engine in the place of the core's own kernels: for a vision component, or for the decoder's layers. The core
 * drives it. It checks what goes in and what comes out, plans the memory, samples, keeps conversations and obeys
 * cancels; a backend computes what it is given and says what that takes. docs/backends.md has the contract. */

typedef enum v2e_component {
    V2E_COMPONENT_SIGLIP = 1,    /* tiles (count, 3, size, size) to features (count, patches, channels) */
    V2E_COMPONENT_PROJECTOR = 2, /* features (count, patches, channels) to tokens (count, side * side, hidden_size) */
    V2E_COMPONENT_EAGLE = 3,     /* patches (count, 3 * 14 * 14) of one picture to tokens (count / 4, hidden_size) */
    V2E_COMPONENT_DECODER = 4    /* embeddings (count, hidden_size) to logits (logit_rows, vocabulary_size) */
} v2e_component;

/* What a cost is asked for. */
typedef struct v2e_backend_shape {
    size_t struct_size;
    uint32_t component; /* v2e_component */
    uint64_t count;     /* most tiles, features or patches of a run, or positions of a prefill chunk */
    uint64_t positions; /* decoder: positions that a session has at most */
} v2e_backend_shape;

/* What an engine takes, in bytes. */
typedef struct v2e_backend_cost {
    size_t struct_size;
    uint64_t weight_bytes;     /* of the process's memory while the engine is open; the decoder's, for all sessions */
    uint64_t work_bytes;       /* of the process's memory beside that, while it opens or runs, whichever is more */
    uint64_t kv_bytes;         /* decoder: keys and values of `positions` in the process's memory */
    uint64_t gpu_weight_bytes; /* the same three of a GPU's memory */
    uint64_t gpu_work_bytes;
    uint64_t gpu_kv_bytes;
    uint64_t gpu_library_bytes; /* of a GPU's memory: the backend's library itself, once for all components */
} v2e_backend_cost;

/* One computation. Input and output are the core's and last until `run` returns. */
typedef struct v2e_backend_run {
    size_t struct_size;
    const float *values;      /* tiles, features, patches or embeddings, as v2e_component has them */
    size_t count;             /* how many of these there are */
    size_t row_floats;        /* numbers in one of them */
    const int64_t *positions; /* (count, 2): row and column of each patch; Eagle only */
    size_t past;              /* decoder: where the first row stands; what was there and behind it is to be forgotten */
    size_t logit_rows;        /* decoder: of how many of the last rows the logits are wanted, 0 to count */
    float *output;            /* as v2e_component has it; a NaN or an infinity in it is V2E_ERROR_NUMERIC */
    size_t output_floats;
} v2e_backend_run;

/* Says how far `prepare` is, done of total, and asks whether to go on; with a total of 0 it asks alone. Returns 0 to go
 * on; anything else: return V2E_ERROR_CANCELLED soon. */
typedef int (*v2e_backend_progress)(void *context, uint64_t done, uint64_t total);

/* The functions return V2E_OK or the status of a failure, about which v2e_backend_fail may have said a sentence.
 * They are called by the thread that calls the core. V2E_ERROR_ENGINE, with a sentence that is a part of one, leaves a
 * vision component to the core's own tower where the core drives all of them. */
typedef struct v2e_backend {
    size_t struct_size;
    const char *name; /* for messages, UTF-8 */
    void *user_data;  /* handed to open and cost */
    /* Makes an engine of a v2e_component. Of a vision component there is one at a time, of the decoder one for each
     * session: its keys and values, while weights are shared behind user_data. */
    v2e_status (*open)(void *user_data, uint32_t component, void **engine);
    /* Asked before anything is opened, too. */
    v2e_status (*cost)(void *user_data, const v2e_backend_shape *shape, v2e_backend_cost *cost);
    v2e_status (*run)(void *engine, const v2e_backend_run *run);
    /* Makes `run`, which is running or about to, return V2E_ERROR_CANCELLED soon; from any thread. NULL: a run is
     * waited for. */
    void (*cancel)(void *engine);
    void (*close)(void *engine);
    /* The following are for vision components and may be NULL. `start` finds what the backend needs on this machine. It
     * comes before a component is opened, again for each. `stop` gives that back; no component is open any more. */
    v2e_status (*start)(void *user_data);
    void (*stop)(void *user_data);
    /* Makes an open engine ready for inputs of up to `count` tiles or patches: it may have to be built for them. */
    v2e_status (*prepare)(void *engine, uint64_t count, v2e_backend_progress progress, void *context);
} v2e_backend;

/* Says why a function of a backend fails, and returns the status for it to return. sentence: UTF-8, copied. */
V2E_API v2e_status v2e_backend_fail(v2e_status status, const char *sentence);

/* ---------------------------------------------------------------- model
 * A bundle is the directory that `valley2-edge export` has made, with valley2.json in it. */

typedef enum v2e_isa {
    V2E_ISA_AUTO = 0, /* the best that the machine has */
    V2E_ISA_PORTABLE = 1,
    V2E_ISA_AVX2 = 2,        /* AVX2, FMA, F16C */
    V2E_ISA_AVX512_VNNI = 3, /* AVX-512 F, BW, VL and VNNI */
    V2E_ISA_NEON = 4,        /* NEON with dot product */
    V2E_ISA_AVX_VNNI = 5     /* AVX2, FMA, F16C and the VNNI that needs no AVX-512 */
} v2e_isa;

typedef enum v2e_activations {
    V2E_ACTIVATIONS_AUTO = 0, /* int8 */
    V2E_ACTIVATIONS_INT8 = 1, /* activations of quantised matrices in int8, scaled by token and group */
    V2E_ACTIVATIONS_INT16 = 2 /* the same in two int8 planes: about 100 times finer, twice the arithmetic */
} v2e_activations;

/* Where the decoder's layers are computed (docs/gpu.md). */
typedef enum v2e_device {
    V2E_DEVICE_AUTO = 0, /* on an NVIDIA GPU if there is a usable one with room for a layer, else on the CPU */
    V2E_DEVICE_CPU = 1,
    V2E_DEVICE_CUDA = 2 /* on an NVIDIA GPU, or V2E_ERROR_INPUT */
} v2e_device;

/* How a bundle's files are compared with the SHA-256 that its manifest has of each. */
typedef enum v2e_check {
    V2E_CHECK_AUTO = 0,  /* quick */
    V2E_CHECK_QUICK = 1, /* files that have changed since they were last checked on this machine */
    V2E_CHECK_FULL = 2,  /* all of them */
    V2E_CHECK_SIZES = 3  /* none: their sizes alone, for bundles that are known to be good */
} v2e_check;

typedef struct v2e_model_options {
    size_t struct_size;
    uint32_t threads;     /* that compute, for towers and decoder together; 0: as many as the process may run on */
    uint32_t isa;         /* v2e_isa; one that the machine lacks is V2E_ERROR_INPUT */
    uint32_t activations; /* v2e_activations, of layers on the CPU */
    uint32_t device;      /* v2e_device of the decoder; the towers are computed on the CPU */
    uint32_t gpu_layers;  /* the first ones, on the GPU; 0: as many as there is memory for */
    uint32_t gpu_context; /* positions of a session that must fit beside them; 0: 4096 */
    uint64_t gpu_memory;  /* bytes of the GPU's memory at most; 0: what is free */
    /* Most bytes of the process's memory to use; 0: no limit. Each session then gives up as little as possible of what
     * it is asked for, v2e_session_describe says what, and a question that would need more is V2E_ERROR_BUDGET. */
    uint64_t memory;
    uint32_t keep_vision;        /* 1: the towers stay in memory between questions; 0: each goes after its use */
    uint32_t no_vision_cache;    /* 1: no embeddings of pictures are kept for later questions about them */
    uint64_t vision_cache_bytes; /* most bytes of these; the ones used least recently go first. 0: 256 MiB */
    uint32_t no_prefix_cache;    /* 1: no KV pages are kept, and sessions share what one of them holds */
    uint64_t prefix_cache_bytes; /* most bytes of KV pages that no session holds; 0: 256 MiB */
    uint32_t check;              /* v2e_check */
    /* The file that remembers what was checked before; the Python package has the same. NULL: verified_files.json in
     * the user's data directory (docs/embedding.md); "": nothing is remembered or written. */
    const char *verified_files;
    const v2e_backend *vision_backend;  /* computes the towers; lives as long as the model. NULL: the core does */
    const v2e_backend *decoder_backend; /* computes the decoder, in the same way */
    const v2e_cancel *cancel;           /* stops v2e_model_open; NULL: nothing does */
    v2e_event_callback callback;        /* hears V2E_EVENT_CHECK and V2E_EVENT_LOAD; NULL: nobody does */
    void *user_data;                    /* handed to the callback */
} v2e_model_options;

typedef struct v2e_model v2e_model;

/* Checks the files of a bundle, and maps those of the decoder; the towers wait for the first picture. The check of a
 * bundle that is new on the machine reads all of it, which takes seconds; it can be cancelled after every MiB. Fails
 * with V2E_ERROR_BUNDLE when the bundle is missing, damaged or of another version, with V2E_ERROR_INPUT when an option
 * is not acceptable, with V2E_ERROR_BUDGET when no session would keep the limit on memory, with V2E_ERROR_CANCELLED. */
V2E_API v2e_status v2e_model_open(const char *bundle_directory, const v2e_model_options *options, v2e_model **model);

typedef struct v2e_model_description {
    size_t struct_size;
    uint32_t max_context;     /* positions that the model was trained for */
    uint32_t vocabulary_size; /* tokens */
    uint32_t hidden_size;     /* channels of an embedding */
    uint32_t layers;          /* of the decoder */
    uint32_t has_eagle;       /* 1: the bundle has the Eagle tower */
    uint32_t threads;
    uint32_t isa;                /* v2e_isa, the one in use; V2E_ISA_AUTO with a backend */
    uint32_t device;             /* v2e_device: V2E_DEVICE_CUDA when at least one layer, or a backend, is on a GPU */
    uint32_t gpu_layers;         /* number of layers on the GPU */
    uint32_t keep_vision;        /* 1: the towers stay in memory between questions */
    uint64_t weight_bytes;       /* bytes read for one decoded token: layers, norms and lm_head */
    uint64_t mapped_bytes;       /* bytes of the decoder's files that are mapped from disk */
    uint64_t gpu_bytes;          /* bytes of weights on the GPU */
    uint64_t vision_cache_bytes; /* most bytes of embeddings; this and the next become less under a limit on memory */
    uint64_t prefix_cache_bytes; /* most bytes of KV pages that no session holds */
    uint64_t vision_cache_used;  /* bytes of embeddings that are kept now */
    uint64_t prefix_cache_used;  /* bytes of KV pages that are kept now */
    char device_name[64];        /* name of the GPU or of the backend; empty without one */
    char device_reason[256];     /* why V2E_DEVICE_AUTO took the CPU, a part of a sentence; else empty */
    char identity[65];           /* tells the bundle from others: 64 hexadecimal digits, a digest of valley2.json */
} v2e_model_description;

V2E_API v2e_status v2e_model_describe(const v2e_model *model, v2e_model_description *description);

/* Gives back what nothing needs until the next question: mapped pages, which come back when they are touched, and what
 * the process's allocator keeps of freed memory. For a program that goes to the background. */
V2E_API void v2e_model_trim(const v2e_model *model);

/* Gives the handle up. Sessions that are open keep the model; its memory goes with the last of them. NULL is allowed.
 */
V2E_API void v2e_model_close(v2e_model *model);

/* Name of a v2e_isa: "portable", "avx2", "avx512-vnni", "neon", "avx-vnni". */
V2E_API const char *v2e_isa_name(uint32_t isa);
/* 1 when this machine can run the instruction set, else 0. */
V2E_API int v2e_isa_available(uint32_t isa);

/* ---------------------------------------------------------------- session */

/* Which reference decides what the model sees of a picture (docs/valley2.md, "Policies"). */
typedef enum v2e_policy {
    V2E_POLICY_AUTO = 0, /* hub */
    V2E_POLICY_HUB = 1,  /* the released processor: it tiles a lone picture */
    V2E_POLICY_REPO = 2  /* the repository's chat class: it tiles all pictures */
} v2e_policy;

/* Most Eagle tokens of a picture, by name. */
typedef enum v2e_eagle_preset {
    V2E_EAGLE_AUTO = 0,     /* balanced */
    V2E_EAGLE_FAST = 1,     /* 256 */
    V2E_EAGLE_BALANCED = 2, /* 729; 196 for each of several pictures or frames */
    V2E_EAGLE_DOCUMENT = 3, /* 1280 */
    V2E_EAGLE_FULL = 4      /* 16384 */
} v2e_eagle_preset;

typedef enum v2e_kv_precision {
    V2E_KV_AUTO = 0, /* fp32 for a decoder in fp32, else fp16; with a backend its own, and no other can be asked for */
    V2E_KV_FP16 = 1,
    V2E_KV_FP32 = 2,
    V2E_KV_INT8 = 3 /* half of fp16, with a step for each kv head and position; keys are spread over their channels */
} v2e_kv_precision;

/* Keys and values of positions whose whole past is equal, tokens and embeddings alike, are equal in every bit. So the
 * sessions of a model share them by pages: a prompt looks for the longest beginning of the session that any session has
 * computed, in the same kv_precision, and computes the rest. */
typedef enum v2e_reuse {
    V2E_REUSE_AUTO = 0, /* takes what is there, and leaves its own */
    V2E_REUSE_OFF = 1   /* neither */
} v2e_reuse;

typedef struct v2e_session_options {
    size_t struct_size;
    const char *system;          /* system prompt; NULL: the policy's own; "": an empty one */
    uint32_t think;              /* 1: ask for answers in four steps: summary, caption, reasoning, conclusion */
    uint32_t context_length;     /* positions; 0: the model's max_context. Memory grows with use. */
    uint32_t kv_precision;       /* v2e_kv_precision */
    uint32_t prefill_chunk;      /* positions computed together; 0: 256. Does not change the answer. */
    uint32_t reuse;              /* v2e_reuse. Does not change the answer. */
    uint32_t policy;             /* v2e_policy */
    uint32_t strict;             /* 1: reproduce the surprises of the reference as well (docs/differences.md) */
    uint32_t no_eagle;           /* 1: leave the Eagle branch out */
    uint32_t no_tiles;           /* 1: each picture is resized as a whole instead of cut into tiles */
    uint32_t eagle_preset;       /* v2e_eagle_preset */
    uint32_t eagle_max_tokens;   /* most Eagle tokens of a picture, at most 16384; 0: the preset's */
    uint32_t eagle_min_tokens;   /* fewest; smaller pictures are enlarged; 0: 4, or a lower cap */
    uint64_t max_picture_pixels; /* largest width times height of a picture or frame; 0: 100000000 */
} v2e_session_options;

typedef struct v2e_session v2e_session;

/* Begins a conversation. options: NULL for the defaults. Under a limit on memory some options may be chosen smaller. */
V2E_API v2e_status v2e_session_open(const v2e_model *model, const v2e_session_options *options, v2e_session **session);

/* Goes on with a conversation that v2e_session_save, or Python's Session.save, has written: the next answer is the one
 * that it would have given. Its options are those that it was saved with. The file may come from anybody: the session
 * shares nothing with others. Fails with V2E_ERROR_INPUT when the file is missing, no saved session, damaged, or of
 * another bundle, with V2E_ERROR_BUDGET when it does not keep the model's limit on memory. */
V2E_API v2e_status v2e_session_load(const v2e_model *model, const char *path, v2e_session **session);

/* Ends a running answer, as a new question does, and writes the conversation to a file, which appears whole or not at
 * all (docs/reuse.md). It holds what the pictures have become, not the pictures. Not for a decoder on a GPU or in a
 * backend. */
V2E_API v2e_status v2e_session_save(v2e_session *session, const char *path);

/* A session as it stands. */
typedef struct v2e_session_description {
    size_t struct_size;
    uint64_t length;             /* positions in the context */
    uint64_t turn_count;         /* questions that are in the context */
    uint64_t kv_bytes;           /* bytes that the KV cache holds */
    v2e_session_options options; /* those that hold; `system` is NULL, or lasts as long as the session */
    const char *given_up;        /* what the limit on memory has cost the session, a part of a sentence; "": nothing */
    uint64_t planned_bytes;      /* the peak that is planned for under the limit on memory; 0: there is none */
} v2e_session_description;

V2E_API v2e_status v2e_session_describe(const v2e_session *session, v2e_session_description *description);

/* One question of the context, and its answer as far as it came. The texts last until the session is asked, saved or
 * closed. */
typedef struct v2e_turn {
    size_t struct_size;
    const char *question; /* UTF-8 */
    const char *answer;   /* UTF-8; "" until the answer is over */
    uint32_t pictures;    /* frames of a video included */
} v2e_turn;

V2E_API v2e_status v2e_session_turn(const v2e_session *session, uint64_t index, v2e_turn *turn);

/* Gives the handle up, stops its answer and frees the KV cache. Waits for the end of the piece of work that computes
 * for it, as v2e_answer_cancel has it. Answers stay good to be read and closed. NULL is allowed. Not from a callback.
 */
V2E_API void v2e_session_close(v2e_session *session);

/* ---------------------------------------------------------------- questions */

/* Prompt lookup: where the newest tokens stood in the session before, those that followed them there are drafted and
 * checked in one step of the decoder, which reads the weights once for all of them. A draft never changes what is
 * chosen, sampled or greedy: wrong tokens are dropped, and logits do not depend on how many positions share a step. */
typedef enum v2e_speculation {
    V2E_SPECULATION_AUTO = 0,  /* drafts as long as pay, by what earlier steps took and how often drafts were right */
    V2E_SPECULATION_OFF = 1,   /* a step for every token */
    V2E_SPECULATION_ALWAYS = 2 /* the longest drafts that there are: for tests and measurements */
} v2e_speculation;

typedef enum v2e_role {
    V2E_ROLE_USER = 0,
    V2E_ROLE_ASSISTANT = 1, /* an answer that was given elsewhere; it has no pictures */
    V2E_ROLE_SYSTEM = 2     /* first of all, in a session without turns: instead of the options' system prompt */
} v2e_role;

/* A piece of a message: a text or a picture. */
typedef struct v2e_part {
    const char *text;           /* UTF-8, or NULL */
    const v2e_picture *picture; /* or NULL */
} v2e_part;

/* What one side says. The texts of a message are joined; its pictures stand before them, as the model was trained. */
typedef struct v2e_message {
    uint32_t role;         /* v2e_role */
    uint32_t video;        /* 1: the pictures are frames of one video */
    const v2e_part *parts; /* (part_count) */
    size_t part_count;
} v2e_message;

/* Called by the model's own thread when v2e_answer_next has something to give again, after it had nothing. Legal in it:
 * v2e_answer_cancel, v2e_cancel_set, and whatever wakes the program's own loop. It must not wait. */
typedef void (*v2e_notify_callback)(void *user_data);

typedef struct v2e_question {
    size_t struct_size;
    const char *text;                   /* UTF-8; what looks like a control token in it stays text */
    const v2e_picture *const *pictures; /* (picture_count) */
    size_t picture_count;
    uint32_t video; /* 1: the pictures are frames of one video */
    /* Instead of text and pictures: user and assistant by turns, beginning and ending with the user. */
    const v2e_message *messages; /* (message_count) */
    size_t message_count;
    uint32_t think;           /* 1: ask for the four-step answer; the session's own `think` does so for all */
    uint32_t no_think;        /* 1: do not, whatever the session says */
    uint32_t max_new_tokens;  /* most tokens of the answer; 0: 1024 */
    float temperature;        /* 0: always the most likely token; at most 1e6 */
    uint32_t top_k;           /* draw from this many of the most likely tokens; 0: off */
    float top_p;              /* draw from the most likely that together reach this probability; 0 or 1: off */
    float min_p;              /* draw from those at least this probable relative to the most likely; 0: off */
    float repetition_penalty; /* 1e-6 to 1e6; 0 or 1: off; over the session's token ids, prompt and answers */
    uint32_t fixed_seed;      /* 1: draws with `seed`; 0: with a new seed, which the statistics tell */
    uint64_t seed;
    uint32_t speculation;          /* v2e_speculation. Does not change the answer. */
    const char *const *stop_texts; /* (stop_text_count) UTF-8: where one appears, the answer ends before it */
    size_t stop_text_count;
    uint32_t token_events;      /* 1: the answer gives V2E_EVENT_TOKEN as well */
    uint32_t most_ahead;        /* tokens that are computed before they are read at most; 0: any number */
    v2e_cancel *cancel;         /* stops the answer, as v2e_answer_cancel does; NULL: that alone does */
    v2e_notify_callback notify; /* NULL: nobody is told */
    void *notify_data;          /* handed to notify */
} v2e_question;

typedef struct v2e_answer v2e_answer;

/* Asks, and returns at once; the model's thread computes the answer when those before it leave room. Earlier questions,
 * pictures and answers stay in the context. A session answers one question at a time: a new one ends the answer before
 * it, which then holds what was read of it. Fails with V2E_ERROR_INPUT when the question is empty or an option is not
 * acceptable; whatever needs computing fails in v2e_answer_next. */
V2E_API v2e_status v2e_session_ask(v2e_session *session, const v2e_question *question, v2e_answer **answer);

/* What a question took. Times are seconds. */
typedef struct v2e_statistics {
    size_t struct_size;
    uint32_t pictures;
    uint32_t tiles;             /* SigLIP tiles, global views and those of pictures that were encoded before included */
    uint32_t vision_cache_hits; /* pictures that had been encoded before, for a question of any session */
    uint32_t stop;              /* v2e_stop_reason */
    uint64_t vision_cache_bytes; /* embeddings that the model keeps */
    uint64_t siglip_tokens;
    uint64_t eagle_tokens;
    uint64_t text_tokens;     /* tokens of the prompt, control tokens included */
    uint64_t new_tokens;      /* tokens of the answer without the closing one */
    uint64_t reused_tokens;   /* positions of the prompt whose keys and values an earlier question had left */
    uint64_t decode_steps;    /* steps of the decoder; fewer than new tokens where drafts were right */
    uint64_t drafted_tokens;  /* guessed from earlier text and checked in these steps */
    uint64_t accepted_tokens; /* drafted tokens that were right and needed no step of their own */
    uint64_t context_used;    /* positions in the KV cache after the turn */
    uint64_t context_length;
    uint64_t kv_bytes;
    uint64_t prefix_cache_bytes; /* KV pages that the model keeps and no session holds */
    uint64_t peak_memory_bytes;  /* largest resident memory of the process so far; 0 where the system does not tell */
    uint64_t seed;
    double wait_seconds;        /* until the model's thread began with the question */
    double vision_load_seconds; /* opening the towers */
    double preprocess_seconds;  /* tiling and patching pictures */
    double siglip_seconds;
    double projector_seconds;
    double eagle_seconds;
    double prefill_seconds;
    double decode_seconds;
    double first_token_seconds; /* from the question to the first token; 0: there was none */
    double total_seconds;       /* from the question to the end of the answer, or until now */
    double dropped_mass;        /* largest probability that the projector left out of a token */
    double vocabulary_share;    /* share of the visual vocabulary that was multiplied; 0: none, or no picture */
} v2e_statistics;

/* The next event: waits for it for timeout_ms at most (0: not at all; V2E_FOREVER: until it is there), and gives
 * V2E_EVENT_NONE when there is none by then. Several events of progress may become one, the newest. After V2E_EVENT_END
 * every call gives it again. A failure is returned as a status, again by every further call, behind all events that
 * came before it; the question has left no trace in the session then. Texts of the event last until the next call for
 * the same answer, or its close. One thread at a time reads an answer. */
V2E_API v2e_status v2e_answer_next(v2e_answer *answer, uint32_t timeout_ms, v2e_event *event);

/* What the question has taken up to now; complete after V2E_EVENT_END or a failure. From any thread. */
V2E_API v2e_status v2e_answer_statistics(const v2e_answer *answer, v2e_statistics *statistics);

/* Stops the answer at the next piece of work of each thread: some milliseconds on the processor, two layers of a chunk
 * or one step on a GPU, with a backend what its `cancel` takes. Returns at once. v2e_answer_next gives the events that
 * were there, and then V2E_EVENT_END with V2E_STOP_CANCELLED. A question that had no text yet leaves no trace in the
 * session; an answer that was cancelled half way stays as far as it was read. From any thread. NULL is allowed. */
V2E_API void v2e_answer_cancel(v2e_answer *answer);

/* One more hold of the handle, for a thread that may cancel while another one closes: each hold needs a close. Returns
 * the answer. */
V2E_API v2e_answer *v2e_answer_retain(v2e_answer *answer);

/* Gives a hold up; with the last one the answer ends, and what was read of it stays in the session. Waits then, as
 * v2e_session_close does. NULL is allowed. Not from a callback. */
V2E_API void v2e_answer_close(v2e_answer *answer);

/* ---------------------------------------------------------------- plan
 * What a question will take of memory, before anything is loaded: only the manifest and the headers of the bundle's
 * files are read. docs/memory.md says what is counted. */

typedef struct v2e_picture_size {
    uint32_t width;  /* pixels */
    uint32_t height; /* pixels */
} v2e_picture_size;

typedef struct v2e_plan_request {
    size_t struct_size;
    const v2e_model_options *model;     /* NULL: the defaults. With `memory` the plan is the one that keeps it. */
    const v2e_session_options *session; /* NULL: the defaults */
    const v2e_picture_size *pictures;   /* (picture_count) */
    size_t picture_count;
    uint32_t video;         /* 1: the pictures are frames of one video */
    uint64_t process_bytes; /* memory of the program itself, which every phase adds */
} v2e_plan_request;

typedef struct v2e_memory_plan {
    size_t struct_size;
    uint32_t context_length;  /* positions that are planned for */
    uint32_t picture_tokens;  /* positions that the pictures take of these */
    uint64_t process_bytes;   /* as given */
    uint64_t decoder_bytes;   /* weights: mapped pages of decoder.safetensors, or what a backend takes */
    uint64_t embedding_bytes; /* mapped pages of the embedding table that the text touches */
    uint64_t kv_bytes;        /* keys and values of context_length positions */
    uint64_t scratch_bytes;   /* activations of the largest prefill chunk, logits, sampling */
    uint64_t siglip_bytes;    /* weights, as their engine holds them; 0 without pictures */
    uint64_t projector_bytes;
    uint64_t eagle_bytes;        /* 0 without the Eagle branch as well */
    uint64_t siglip_work_bytes;  /* loading and activations of SigLIP and the projector, one tile at a time */
    uint64_t eagle_work_bytes;   /* loading and activations of Eagle for its largest picture */
    uint64_t picture_bytes;      /* pixels of all pictures, the inputs made of the largest, all tokens */
    uint64_t tiles_phase_bytes;  /* all that is in memory while SigLIP and the projector run */
    uint64_t eagle_phase_bytes;  /* all that is in memory while Eagle runs */
    uint64_t answer_phase_bytes; /* all that is in memory during prefill and decode */
    uint64_t peak_bytes;         /* the largest phase */
    uint64_t vision_cache_bytes; /* embeddings of earlier pictures; 0 without conversation, when there are none */
    uint64_t prefix_cache_bytes; /* KV pages that no session holds; without conversation one at most */
    uint32_t gpu_layers;         /* layers of the decoder on the GPU; the parts above are what stays with the CPU */
    uint64_t gpu_weight_bytes;   /* weights of these layers, and of the head when these are all */
    uint64_t gpu_kv_bytes;
    uint64_t gpu_scratch_bytes; /* activations, logits */
    uint64_t gpu_context_bytes; /* the driver's own, the kernels, and those of a vision backend */
    uint64_t gpu_bytes;         /* memory of the GPU in its largest phase */
    uint64_t gpu_siglip_bytes;  /* weights of vision engines on the GPU; the parts above are then the CPU's share */
    uint64_t gpu_projector_bytes;
    uint64_t gpu_eagle_bytes;
    uint64_t
        gpu_siglip_work_bytes;     /* inputs, outputs and activations of SigLIP and the projector, one tile at a time */
    uint64_t gpu_eagle_work_bytes; /* the same of Eagle for its largest picture */
    uint64_t gpu_tiles_phase_bytes; /* all of the GPU's while SigLIP and the projector run; 0 without pictures */
    uint64_t gpu_eagle_phase_bytes;
    uint64_t gpu_answer_phase_bytes;
    uint64_t gpu_memory_bytes; /* memory that may be used: as given, or what the driver says is free; 0: no GPU */
} v2e_memory_plan;

/* Options that keep a limit; they have the names of the options that they are for. */
typedef struct v2e_memory_choice {
    size_t struct_size;
    uint32_t keep_vision;
    uint32_t prefill_chunk;      /* 0: 256 */
    uint64_t vision_cache_bytes; /* 0: none are kept */
    uint64_t prefix_cache_bytes; /* 0 with no_prefix_cache alone */
    uint32_t no_prefix_cache;
    uint32_t context_length; /* 0: the model's max_context */
    uint32_t kv_precision;   /* v2e_kv_precision */
    uint32_t no_tiles;       /* 1: each picture is resized as a whole */
    uint32_t no_eagle;
    uint32_t eagle_max_tokens; /* most Eagle tokens of a picture; 0: the preset's */
    char changes[512];         /* what is not as it was asked for, a line each without an end; "" when all is */
} v2e_memory_choice;

/* bundle_directory holds valley2.json. choice: what `memory` of the model's options leaves; NULL: nobody asks. Fails
 * with V2E_ERROR_BUDGET when the pictures do not fit the context, or nothing keeps the limit on memory. */
V2E_API v2e_status v2e_model_plan(const char *bundle_directory, const v2e_plan_request *request, v2e_memory_plan *plan,
                                  v2e_memory_choice *choice);

#ifdef __cplusplus
}
#endif

#endif /* VALLEY2_H */

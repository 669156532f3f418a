/* valley2.h: the C interface of the Valley2 native core.
 *
 * Usage, without error handling:
 *
 *     v2e_model_options model_options = {sizeof model_options};
 *     v2e_model *model = NULL;
 *     v2e_model_open("bundle/decoder", &model_options, &model);
 *
 *     v2e_session_options session_options = {sizeof session_options};
 *     v2e_session *session = NULL;
 *     v2e_session_open(model, &session_options, &session);
 *
 *     v2e_segment prompt[3] = {
 *         {before, NULL, before_count},            // token ids
 *         {NULL, picture_tokens, picture_count},   // vision embeddings, (picture_count, hidden_size)
 *         {after, NULL, after_count},
 *     };
 *     v2e_session_prefill(session, prompt, 3, 1, on_event, user_data);
 *
 *     v2e_generate_options generate = {sizeof generate};
 *     generate.max_new_tokens = 256;
 *     generate.stop_tokens = stops;
 *     generate.stop_token_count = 2;
 *     v2e_stop_reason reason;
 *     v2e_session_generate(session, &generate, on_event, user_data, &reason);
 *
 *     v2e_session_close(session);
 *     v2e_model_close(model);
 *
 * Rules.
 *   - A model is immutable and may be shared by threads. A session belongs to one thread at a time.
 *     v2e_session_cancel is the only call that is legal on a session from another thread.
 *   - Every call that can fail returns a v2e_status; v2e_last_error() then gives one sentence. It is
 *     thread-local and stays valid until the next failing call of the same thread.
 *   - Every options struct begins with its own size. Zero is the default of every field: a struct that is zero but for
 *     its size asks for nothing but defaults, and AUTO is 0 in every enum that an option takes. A struct that is
 *     smaller than the library's is accepted, so that older callers go on working.
 *   - Nothing is printed, nothing exits, nothing throws across this header.
 *   - Files are mapped, not read. One that becomes shorter or is written to while it is in use makes calls fail with
 *     V2E_ERROR_BUNDLE; replace files by renaming others to their names. For this there is a handler of SIGBUS while
 *     files are mapped, except on Windows: signals that are not about these files go to the handler that it found, and
 *     where there was none, on Linux, a line on stderr names the file of another library that ends the process. A
 *     handler that a program installs later should do likewise.
 *   - Files, sizes and numbers may come from strangers: what is too large or makes no sense is refused. Pointers are
 *     the caller's: they are aligned for their type and as long as the call says.
 *   - Arrays are dense and row-major. Pictures are uint8 RGB, (height, width, 3).
 */
#ifndef VALLEY2_H
#define VALLEY2_H

#include <stddef.h>
#include <stdint.h>

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
    V2E_ERROR_CANCELLED = 4, /* v2e_session_cancel or an event callback stopped the call */
    V2E_ERROR_NUMERIC = 5,   /* a NaN or an infinity; the message names the stage */
    V2E_ERROR_INTERNAL = 6   /* a bug in the library */
} v2e_status;

/* One sentence about the calling thread's last failure; "" when there was none. */
V2E_API const char *v2e_last_error(void);

/* The library's version, "major.minor.patch". */
V2E_API const char *v2e_version(void);

/* ---------------------------------------------------------------- events */

typedef enum v2e_event_kind {
    V2E_EVENT_PREFILL = 1, /* done of total positions are in the KV cache */
    V2E_EVENT_TOKEN = 2,   /* a token was chosen; done counts the new tokens */
    V2E_EVENT_LAYER = 3,   /* done of total layers of a vision tower are computed */
    V2E_EVENT_PIXELS = 4   /* a picture is resized or cut, for some milliseconds since the last event; no numbers */
} v2e_event_kind;

typedef struct v2e_event {
    size_t struct_size;
    v2e_event_kind kind;
    uint64_t done;
    uint64_t total;
    int32_t token;     /* V2E_EVENT_TOKEN only */
    double elapsed_ms; /* since the call began */
} v2e_event;

/* Return 0 to go on; anything else cancels the call. */
typedef int (*v2e_event_callback)(const v2e_event *event, void *user_data);

/* ---------------------------------------------------------------- geometry
 * How one picture becomes tiles, patches and tokens. Pure arithmetic: docs/valley2.md, "Pictures". */

typedef struct v2e_geometry_options {
    size_t struct_size;
    uint32_t tile_size;        /* side of a SigLIP tile in pixels; 0: 384 */
    uint32_t tokens_per_side;  /* side of a tile's token grid after the projector; 0: 14 */
    uint32_t no_tiles;         /* 0: a global view and tiles; 1: one plain resize */
    uint32_t no_unpad;         /* 0: stitch the tiles and drop the padding, as with Eagle; 1: the tiles one by one */
    uint32_t max_vision_token; /* most SigLIP tokens of one picture; 0: 100000 */
    uint32_t no_eagle;         /* 0: the picture goes through the Eagle branch as well; 1: it does not */
    uint64_t eagle_min_pixels; /* least area after the second resize, where 28 * 28 pixels are one token; 0: 4 tokens */
    uint64_t eagle_max_pixels; /* greatest area after it; 0: 16384 tokens */
    /* (canvas_count, 2): candidate canvas width, height in pixels, in order of preference. */
    const uint32_t *canvases;
    size_t canvas_count;         /* 0: 1 x 1 to 3 x 3 tiles */
    v2e_event_callback callback; /* hears V2E_EVENT_PIXELS in v2e_make_tiles and v2e_make_patches; NULL: nobody does */
    void *user_data;             /* handed to the callback */
} v2e_geometry_options;

typedef struct v2e_geometry {
    size_t struct_size;
    uint32_t width, height;                 /* size of the picture, pixels */
    uint32_t grid_columns, grid_rows;       /* tiles of the chosen canvas; 0, 0 when not tiled */
    uint32_t resized_width, resized_height; /* size of the picture on the canvas, pixels */
    uint32_t paste_x, paste_y;              /* where its upper left corner lies on the canvas, pixels */
    uint32_t tile_count;                    /* global view included */
    uint32_t kept_x, kept_y;                /* un-padded part of the stitched token map, tokens */
    uint32_t kept_columns, kept_rows;
    uint32_t pooled_columns, pooled_rows; /* tokens after the cap: of the kept map, or with no_unpad of each tile */
    uint32_t siglip_tokens;               /* tokens of the whole picture, global view included */
    uint32_t fetch_width, fetch_height;   /* size after the first Eagle resize, pixels; 0 without Eagle */
    uint32_t eagle_width, eagle_height;   /* size after the second, pixels */
    uint32_t eagle_patches;               /* 14 x 14 patches */
    uint32_t eagle_tokens;                /* patches / 4 */
} v2e_geometry;

/* Fails with V2E_ERROR_INPUT for a side of 0 and, with Eagle, for an aspect ratio above 200. */
V2E_API v2e_status v2e_plan_picture(uint32_t width, uint32_t height, const v2e_geometry_options *options,
                                    v2e_geometry *geometry);

/* ---------------------------------------------------------------- pixels */

/* Bicubic resize, equal to Pillow's Image.resize(..., BICUBIC) bit for bit.
 * source: (height, width, 3); destination: (new_height, new_width, 3). */
V2E_API v2e_status v2e_resize(const uint8_t *source, uint32_t width, uint32_t height, uint8_t *destination,
                              uint32_t new_width, uint32_t new_height);

/* SigLIP input: tiles (tile_count, 3, tile_size, tile_size) float32 in [-1, 1]; global view first, then row-major. */
V2E_API v2e_status v2e_make_tiles(const uint8_t *picture, const v2e_geometry *geometry,
                                  const v2e_geometry_options *options, float *tiles);

/* Eagle input: patches (eagle_patches, 3 * 14 * 14) float32, normalised, in 2 x 2 block order;
 * positions (eagle_patches, 2) int64: row, column. The two equal temporal slices are given once. */
V2E_API v2e_status v2e_make_patches(const uint8_t *picture, const v2e_geometry *geometry,
                                    const v2e_geometry_options *options, float *patches, int64_t *positions);

/* Projected tile tokens (tile_count, tokens_per_side^2, channels) to the picture's SigLIP tokens
 * (siglip_tokens, channels): global view, then the stitched, un-padded and pooled tiles. */
V2E_API v2e_status v2e_stitch_tiles(const float *tile_tokens, const v2e_geometry *geometry,
                                    const v2e_geometry_options *options, uint32_t channels, float *tokens);

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

/* The functions return V2E_OK or the status of a failure, about which v2e_backend_fail may have said a sentence.
 * They are called by the thread that calls the core. */
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
} v2e_backend;

/* Says why a function of a backend fails, and returns the status for it to return. sentence: UTF-8, copied. */
V2E_API v2e_status v2e_backend_fail(v2e_status status, const char *sentence);

/* ---------------------------------------------------------------- model */

typedef enum v2e_isa {
    V2E_ISA_AUTO = 0,
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

/* What a file was when it was checked, as stat says: the library refuses, with V2E_ERROR_BUNDLE, to open another one
 * in its place. */
typedef struct v2e_file_stamp {
    size_t struct_size;
    uint64_t size;    /* bytes */
    int64_t mtime_ns; /* when it was modified, nanoseconds since 1970 */
    int64_t ctime_ns; /* when it was changed in any way. This and the following are not looked at on Windows. */
    uint64_t inode;
    uint64_t device;
} v2e_file_stamp;

typedef struct v2e_model_options {
    size_t struct_size;
    uint32_t threads;                       /* 0: as many as the process may run on */
    uint32_t isa;                           /* v2e_isa; one that the machine lacks is V2E_ERROR_INPUT */
    uint32_t activations;                   /* v2e_activations, of layers on the CPU */
    uint64_t prefix_cache_bytes;            /* most bytes of KV pages that no session holds; 0: 256 MiB */
    uint32_t no_prefix_cache;               /* 1: none are kept, and sessions share what one of them holds */
    uint32_t device;                        /* v2e_device */
    uint32_t gpu_layers;                    /* the first ones, on the GPU; 0: as many as there is memory for */
    uint32_t gpu_context;                   /* positions of a session that must fit beside them; 0: 4096 */
    uint64_t gpu_memory;                    /* bytes of the GPU's memory at most; 0: what is free */
    uint32_t offload_weights;               /* 1: v2e_model_trim takes the weights off the GPU until their next use */
    const v2e_file_stamp *decoder_stamp;    /* what decoder.safetensors must be; NULL: any file */
    const v2e_file_stamp *embeddings_stamp; /* what embeddings.safetensors must be; NULL: any file */
    const v2e_backend *backend;             /* computes the decoder; lives as long as the model. NULL: the core does */
} v2e_model_options;

typedef struct v2e_model_description {
    size_t struct_size;
    uint32_t hidden_size;
    uint32_t intermediate_size;
    uint32_t layers;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_size;
    uint32_t vocabulary_size;
    uint32_t max_context; /* positions the model was trained for */
    uint32_t threads;
    uint32_t isa;            /* v2e_isa, the one in use; V2E_ISA_AUTO with a backend */
    uint64_t weight_bytes;   /* bytes read for one decoded token: layers, norms and lm_head; a backend's weights */
    uint64_t mapped_bytes;   /* bytes of the files that are mapped from disk */
    uint32_t device;         /* v2e_device: V2E_DEVICE_CUDA when at least one layer, or a backend, is on a GPU */
    uint32_t gpu_layers;     /* number of layers on the GPU */
    uint64_t gpu_bytes;      /* bytes of weights on the GPU */
    char device_name[64];    /* name of the GPU or of the backend; empty without one */
    char device_reason[256]; /* why V2E_DEVICE_AUTO took the CPU, a part of a sentence; else empty */
} v2e_model_description;

typedef struct v2e_model v2e_model;

/* decoder_directory holds decoder.safetensors and embeddings.safetensors (docs/bundle.md), UTF-8. Both are mapped, not
 * read. With a backend decoder.safetensors is not opened: valley2.json beside the directory has the decoder's sizes,
 * threads is for the description alone, and the other options of the core's own kernels are refused. */
V2E_API v2e_status v2e_model_open(const char *decoder_directory, const v2e_model_options *options, v2e_model **model);
V2E_API v2e_status v2e_model_describe(const v2e_model *model, v2e_model_description *description);
/* Rows of the embedding table as float32: embeddings (count, hidden_size). */
V2E_API v2e_status v2e_model_embed(const v2e_model *model, const int32_t *tokens, size_t count, float *embeddings);
/* Every session of the model must be closed before. NULL is allowed. */
V2E_API void v2e_model_close(v2e_model *model);

/* Gives back what nothing needs until the next call: the mapped pages of the model's files, which come back when they
 * are touched, and what the process's allocator keeps of freed memory; with
 * offload_weights the weights on the GPU, for which it waits until no session computes. Legal from every thread at any
 * time, but not from a callback. */
V2E_API void v2e_model_trim(const v2e_model *model);

/* KV pages that sessions have left for others. Legal from every thread at any time. */
typedef struct v2e_prefix_cache {
    size_t struct_size;
    uint64_t budget_bytes;
    uint64_t kept_bytes; /* pages that no session holds: within the budget, and given back with the model */
    uint64_t pages;      /* number of pages that can be found, those that sessions hold included */
} v2e_prefix_cache;

V2E_API v2e_status v2e_model_prefix_cache(const v2e_model *model, v2e_prefix_cache *cache);
/* Another budget from now on; what is beyond it goes at once. 0: sessions share what one of them holds. */
V2E_API v2e_status v2e_model_resize_prefix_cache(const v2e_model *model, uint64_t budget_bytes);

/* Name of a v2e_isa: "portable", "avx2", "avx512-vnni", "neon", "avx-vnni". */
V2E_API const char *v2e_isa_name(uint32_t isa);
/* 1 when this machine can run the instruction set, else 0. */
V2E_API int v2e_isa_available(uint32_t isa);

/* ---------------------------------------------------------------- session */

typedef enum v2e_kv_precision {
    V2E_KV_AUTO = 0, /* fp32 for a decoder in fp32, else fp16; with a backend its own, and no other can be asked for */
    V2E_KV_FP16 = 1,
    V2E_KV_FP32 = 2,
    V2E_KV_INT8 = 3 /* half of fp16, with a step for each kv head and position; keys are spread over their channels */
} v2e_kv_precision;

/* Keys and values of positions whose whole past is equal, tokens and embeddings alike, are equal in every bit. So the
 * sessions of a model share them by pages: prefill looks for the longest beginning of the session that any session has
 * computed, in the same kv_precision, and computes the rest. The logit_rows of the call are always computed. */
typedef enum v2e_reuse {
    V2E_REUSE_AUTO = 0, /* takes what is there, and leaves its own */
    V2E_REUSE_OFF = 1   /* neither */
} v2e_reuse;

typedef struct v2e_session_options {
    size_t struct_size;
    uint32_t context_length; /* positions; 0: the model's max_context. Memory grows with use. */
    uint32_t kv_precision;   /* v2e_kv_precision */
    uint32_t prefill_chunk;  /* positions computed together; 0: 256. Does not change the result. */
    uint32_t reuse;          /* v2e_reuse. Does not change the result. */
} v2e_session_options;

typedef struct v2e_segment {
    const int32_t *tokens;   /* count token ids, or NULL */
    const float *embeddings; /* (count, hidden_size), or NULL */
    size_t count;
} v2e_segment;

/* Prompt lookup: where the newest tokens stood in the session before, those that followed them there are drafted and
 * checked in one step of the decoder, which reads the weights once for all of them. A draft never changes what is
 * chosen, sampled or greedy: wrong tokens are dropped, and logits do not depend on how many positions share a step. */
typedef enum v2e_speculation {
    V2E_SPECULATION_AUTO = 0,  /* drafts as long as pay, by what earlier steps took and how often drafts were right */
    V2E_SPECULATION_OFF = 1,   /* a step for every token */
    V2E_SPECULATION_ALWAYS = 2 /* the longest drafts that there are: for tests and measurements */
} v2e_speculation;

typedef struct v2e_generate_options {
    size_t struct_size;
    uint32_t max_new_tokens;  /* 0: until a stop token or the end of the context */
    float temperature;        /* 0: greedy; at most 1e6 */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* at most 1; 0 or 1: off. The most likely token is always kept. */
    float min_p;              /* at most 1; 0: off */
    float repetition_penalty; /* 1e-6 to 1e6; 0 or 1: off; over the session's token ids, prompt and answers */
    uint64_t seed;
    const int32_t *stop_tokens;
    size_t stop_token_count; /* at most 65,536 */
    uint32_t speculation;    /* v2e_speculation. Does not change the result. */
    uint32_t
        tokens_to_follow; /* most tokens that later calls ask for: drafts may reach beyond max_new_tokens for them */
} v2e_generate_options;

typedef enum v2e_stop_reason {
    V2E_STOP_TOKEN = 1,  /* a stop token; it is neither reported nor put into the KV cache */
    V2E_STOP_LENGTH = 2, /* max_new_tokens */
    V2E_STOP_CONTEXT = 3 /* the context is full */
} v2e_stop_reason;

/* What all calls of generate and prefill have done since the session was opened. */
typedef struct v2e_session_counters {
    size_t struct_size;
    uint64_t tokens;          /* tokens that were chosen and decoded */
    uint64_t steps;           /* steps of the decoder; without drafts there is one for each token */
    uint64_t drafted_tokens;  /* drafted tokens that these steps checked */
    uint64_t accepted_tokens; /* drafted tokens that were right and needed no step of their own */
    uint64_t prefilled_positions;
    uint64_t reused_positions; /* prefilled positions that an earlier call of this or another session had computed */
} v2e_session_counters;

typedef struct v2e_session v2e_session;

V2E_API v2e_status v2e_session_open(const v2e_model *model, const v2e_session_options *options, v2e_session **session);
V2E_API void v2e_session_close(v2e_session *session);

/* Appends segments to the session. Keeps the logits of the last logit_rows positions (0: only the very last are
 * needed for generate and are always kept). On failure or cancellation the session is as it was before the call. */
V2E_API v2e_status v2e_session_prefill(v2e_session *session, const v2e_segment *segments, size_t segment_count,
                                       size_t logit_rows, v2e_event_callback callback, void *user_data);

/* The last `rows` rows of logits kept by the last prefill or decode step: logits (rows, vocabulary_size). */
V2E_API v2e_status v2e_session_logits(const v2e_session *session, size_t rows, float *logits);

/* Chooses tokens from the kept logits, reports each as an event and decodes it. Every reported token is in the
 * session when the call returns, cancelled or not; one whose step a cancel cut short has no logits yet, and the next
 * call of prefill, generate or save decodes it first. */
V2E_API v2e_status v2e_session_generate(v2e_session *session, const v2e_generate_options *options,
                                        v2e_event_callback callback, void *user_data, v2e_stop_reason *reason);

/* Positions in the KV cache. */
V2E_API size_t v2e_session_length(const v2e_session *session);
/* Bytes that the KV cache holds now; 0 when a backend fails to say. */
V2E_API uint64_t v2e_session_kv_bytes(const v2e_session *session);
/* What generate and prefill have cost so far. */
V2E_API v2e_status v2e_session_count(const v2e_session *session, v2e_session_counters *counters);
/* Forgets all positions from `length` on. The kept logits are gone: prefill at least one position before generate. */
V2E_API v2e_status v2e_session_truncate(v2e_session *session, size_t length);

/* A session in one file: what stood at its positions, their keys and values, the logits of the last one, and a note of
 * the caller. It goes with the bundle that decoder_directory is part of: beside the directory there must be its
 * valley2.json. The file appears whole or not at all. docs/reuse.md describes it. */

/* note: UTF-8, at most 16 MiB; NULL: an empty one. What saves to the same path have left beside it, because their
 * process was killed, goes. */
V2E_API v2e_status v2e_session_save(v2e_session *session, const char *path, const char *note);
/* A session that goes on as the saved one would have. What is 0 in the options is as it was; another kv_precision is
 * V2E_ERROR_INPUT, and so is a file that is no saved session, is damaged, or belongs to another bundle. The file may
 * come from anybody, so that the session shares nothing with others, whatever reuse says. */
V2E_API v2e_status v2e_session_load(const v2e_model *model, const char *path, const v2e_session_options *options,
                                    v2e_session **session);
/* The note that the session was loaded with; "" when it was not loaded. Valid until the session is closed. */
V2E_API const char *v2e_session_note(const v2e_session *session);

/* Stops the running call, or else the next ones, with V2E_ERROR_CANCELLED, at the next piece of work of each thread:
 * some milliseconds on the processor, two layers of a chunk or one step on a GPU, with a backend what its `cancel`
 * takes. Stays in force until v2e_session_resume. */
V2E_API void v2e_session_cancel(v2e_session *session);
V2E_API void v2e_session_resume(v2e_session *session);

/* ---------------------------------------------------------------- vision towers
 * SigLIP, its projector and Eagle: from the files of a bundle (docs/vision.md), computed on the processor, or in a
 * backend. A tower belongs to one thread at a time; only v2e_tower_cancel may come from another one. The result of a
 * file's tower does not depend on the number of threads. */

typedef struct v2e_tower_options {
    size_t struct_size;
    uint32_t threads; /* 0: as many as the process may run on */
    uint32_t isa;     /* v2e_isa; one that the machine lacks is V2E_ERROR_INPUT */
    /* Projector: entries of the visual vocabulary are left out of a token whose probabilities sum up to no more than
     * this, which is below 0.5; 0: 1e-4, or nothing where the matrices are fp32. */
    float dropped_mass;
    uint32_t whole_vocabulary;   /* Projector: 1: no entry is left out */
    const v2e_file_stamp *stamp; /* what the file must be; NULL: any file */
    /* The tower computes on the threads of this model, which may be closed before it; NULL: on threads of its own. What
     * both compute at the same time they share these threads for. */
    const v2e_model *threads_of;
    const v2e_backend *backend; /* what computes the tower; NULL: the core itself. It must outlive the tower. */
    uint32_t component;         /* v2e_component, for a backend; a file says what it is */
} v2e_tower_options;

typedef struct v2e_tower_description {
    size_t struct_size;
    uint32_t component;       /* v2e_component */
    uint32_t threads;         /* this and the following are 0 for a backend's tower, but for input_floats */
    uint32_t isa;             /* v2e_isa, the one in use */
    uint32_t bf16_arithmetic; /* 1: matrices in bf16 are multiplied as bf16; 0: widened to fp32 */
    uint64_t input_floats;    /* numbers in one tile or patch */
    uint64_t mapped_bytes;    /* bytes of the file that are mapped from disk */
} v2e_tower_description;

/* What a run takes. */
typedef struct v2e_tower_cost {
    size_t struct_size;
    uint64_t output_floats;
    uint64_t scratch_bytes; /* memory that is kept until the tower is closed; of a backend, its work_bytes */
    double operations;      /* an addition and its multiplication are two; 0: a backend does not say */
} v2e_tower_cost;

typedef struct v2e_tower_input {
    size_t struct_size;
    const float *values;      /* tiles, features or patches */
    size_t count;             /* how many of these there are */
    const int64_t *positions; /* (count, 2): row and column of each patch; Eagle only */
} v2e_tower_input;

/* What the last run of a projector left out of its visual vocabulary; zero for towers that have none. */
typedef struct v2e_tower_vocabulary {
    size_t struct_size;
    double dropped_mass; /* largest probability left out of a token: at most what the options allow */
    uint64_t tokens;     /* tokens that were computed */
    uint64_t entries;    /* entries that mattered, summed over the tokens */
    uint64_t multiplied; /* entries that were multiplied, summed over the tokens; neighbours share theirs */
} v2e_tower_vocabulary;

typedef struct v2e_tower v2e_tower;

/* path: of a file, which is mapped, not read; for a backend, of the bundle's directory, whose manifest has the sizes.
 * UTF-8. */
V2E_API v2e_status v2e_tower_open(const char *path, const v2e_tower_options *options, v2e_tower **tower);
V2E_API v2e_status v2e_tower_describe(const v2e_tower *tower, v2e_tower_description *description);
V2E_API v2e_status v2e_tower_plan(const v2e_tower *tower, size_t count, v2e_tower_cost *cost);
/* output: v2e_tower_cost.output_floats of them. The callback hears V2E_EVENT_LAYER; it may be NULL. */
V2E_API v2e_status v2e_tower_run(v2e_tower *tower, const v2e_tower_input *input, float *output,
                                 v2e_event_callback callback, void *user_data);
V2E_API v2e_status v2e_tower_vocabulary_of(const v2e_tower *tower, v2e_tower_vocabulary *vocabulary);
/* Stops the running call, or else the next ones, with V2E_ERROR_CANCELLED, at the next piece of work of each thread:
 * some milliseconds, or as soon as its backend does. Stays in force until v2e_tower_resume. */
V2E_API void v2e_tower_cancel(v2e_tower *tower);
V2E_API void v2e_tower_resume(v2e_tower *tower);
/* NULL is allowed. */
V2E_API void v2e_tower_close(v2e_tower *tower);

/* ---------------------------------------------------------------- memory
 * What a question about pictures will cost, before anything is loaded: only the manifest and the headers of the
 * bundle's files are read. docs/memory.md says what is counted. */

typedef struct v2e_memory_options {
    size_t struct_size;
    uint32_t context_length;      /* positions, all of them used; 0: the model's max_context */
    uint32_t kv_precision;        /* v2e_kv_precision */
    uint32_t prefill_chunk;       /* positions computed together; 0: 256 */
    uint32_t threads;             /* 0: as many as the process may run on */
    uint32_t activations;         /* v2e_activations */
    uint32_t keep_vision;         /* 1: the vision engines stay loaded; 0: encode, free, decode */
    uint32_t conversation;        /* 1: pictures may come when the context is full; 0: only before the first answer */
    uint64_t process_bytes;       /* memory of the program itself, which every phase adds */
    const v2e_geometry *pictures; /* (picture_count), from v2e_plan_picture */
    size_t picture_count;
    uint64_t vision_cache_bytes; /* most bytes of earlier pictures' embeddings; the core itself keeps none */
    uint64_t prefix_cache_bytes; /* as in v2e_model_options; 0: 256 MiB */
    uint32_t no_prefix_cache;    /* as in v2e_model_options */
    uint32_t device;             /* v2e_device of the decoder */
    uint32_t gpu_layers;         /* the first ones, on the GPU; 0: as many as fit */
    uint64_t gpu_memory;         /* bytes of the GPU's memory; 0: what its driver says is free */
    uint32_t offload_weights;    /* as in v2e_model_options: the decoder's weights go while pictures are encoded */
    const v2e_backend *decoder_backend; /* computes the decoder and says what it takes; NULL: the core does */
    const v2e_backend *vision_backend;  /* the same of the vision components */
} v2e_memory_options;

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

/* bundle_directory holds valley2.json, UTF-8. Fails with V2E_ERROR_BUDGET when the pictures do not fit the context. */
V2E_API v2e_status v2e_plan_memory(const char *bundle_directory, const v2e_memory_options *options,
                                   v2e_memory_plan *plan);

/* ---------------------------------------------------------------- limits
 * What this machine can do at most at this moment, for measurements to be shares of: on a machine that others share the
 * limits change by the minute. A call takes some tens of milliseconds and keeps every thread busy. */

typedef struct v2e_probe_options {
    size_t struct_size;
    uint32_t threads; /* 0: as many as the process may run on */
    uint32_t isa;     /* v2e_isa, for the multiplications; one that the machine lacks is V2E_ERROR_INPUT */
    uint32_t device;  /* v2e_device: AUTO is the CPU; a probe of a GPU knows its copies and its tensor cores alone */
} v2e_probe_options;

typedef struct v2e_probe v2e_probe;

V2E_API v2e_status v2e_probe_open(const v2e_probe_options *options, v2e_probe **probe);
/* Reading memory, with a block of 512 MiB that the first call allocates. */
V2E_API v2e_status v2e_probe_bandwidth(v2e_probe *probe, double *bytes_per_second);
/* Multiplying int8 with sums in integers, and float32; an addition and its multiplication are two operations. */
V2E_API v2e_status v2e_probe_int8(v2e_probe *probe, double *operations_per_second);
V2E_API v2e_status v2e_probe_fp32(v2e_probe *probe, double *operations_per_second);
/* On a GPU alone: fp16 products with sums in fp32 on its tensor cores. v2e_probe_bandwidth is then that of copying,
 * bytes read and written. */
V2E_API v2e_status v2e_probe_fp16(v2e_probe *probe, double *operations_per_second);
/* NULL is allowed. */
V2E_API void v2e_probe_close(v2e_probe *probe);

#ifdef __cplusplus
}
#endif

#endif /* VALLEY2_H */

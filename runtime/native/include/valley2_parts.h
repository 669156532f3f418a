/* valley2_parts.h: single parts of the core, for the tools and the tests of this project.
 *
 * Other programs use valley2.h. What stands here may change or go with any release.
 *
 * The rules of valley2.h hold, but for two: a pointer may be to the middle of a larger array, and then a stride says
 * how many values lie from one row to the next. All calls of one rounder belong to one thread at a time.
 */
#ifndef VALLEY2_PARTS_H
#define VALLEY2_PARTS_H

#include "valley2.h"

#ifdef __cplusplus
extern "C" {
#endif

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

/* ---------------------------------------------------------------- decoder
 * Token ids and embeddings in, token ids out. A decoder is immutable and may be shared by threads; a session of it
 * belongs to one thread at a time, and v2e_decoder_session_cancel is the only call that is legal from another one.
 *
 * Usage, without error handling:
 *
 *     v2e_decoder_options decoder_options = {sizeof decoder_options};
 *     v2e_decoder *decoder = NULL;
 *     v2e_decoder_open("bundle/decoder", &decoder_options, &decoder);
 *
 *     v2e_decoder_session_options session_options = {sizeof session_options};
 *     v2e_decoder_session *session = NULL;
 *     v2e_decoder_session_open(decoder, &session_options, &session);
 *
 *     v2e_segment prompt[3] = {
 *         {before, NULL, before_count},          // token ids
 *         {NULL, picture_tokens, picture_count}, // vision embeddings, (picture_count, hidden_size)
 *         {after, NULL, after_count},
 *     };
 *     v2e_decoder_session_prefill(session, prompt, 3, 1, on_event, user_data);
 *
 *     v2e_generate_options generate = {sizeof generate};
 *     generate.max_new_tokens = 256;
 *     generate.stop_tokens = stops;
 *     generate.stop_token_count = 2;
 *     v2e_stop_reason reason;
 *     v2e_decoder_session_generate(session, &generate, on_event, user_data, &reason);
 *
 *     v2e_decoder_session_close(session);
 *     v2e_decoder_close(decoder);
 */

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

typedef struct v2e_decoder_options {
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
    uint32_t offload_weights;               /* 1: v2e_decoder_trim takes the weights off the GPU until their next use */
    const v2e_file_stamp *decoder_stamp;    /* what decoder.safetensors must be; NULL: any file */
    const v2e_file_stamp *embeddings_stamp; /* what embeddings.safetensors must be; NULL: any file */
    const v2e_backend *backend;             /* computes the decoder; lives as long as the model. NULL: the core does */
} v2e_decoder_options;

typedef struct v2e_decoder_description {
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
} v2e_decoder_description;

typedef struct v2e_decoder v2e_decoder;

/* decoder_directory holds decoder.safetensors and embeddings.safetensors (docs/bundle.md), UTF-8. Both are mapped, not
 * read. With a backend decoder.safetensors is not opened: valley2.json beside the directory has the decoder's sizes,
 * threads is for the description alone, and the other options of the core's own kernels are refused. */
V2E_API v2e_status v2e_decoder_open(const char *decoder_directory, const v2e_decoder_options *options,
                                    v2e_decoder **decoder);
V2E_API v2e_status v2e_decoder_describe(const v2e_decoder *decoder, v2e_decoder_description *description);
/* Rows of the embedding table as float32: embeddings (count, hidden_size). */
V2E_API v2e_status v2e_decoder_embed(const v2e_decoder *decoder, const int32_t *tokens, size_t count,
                                     float *embeddings);
/* Every session of the decoder must be closed before. NULL is allowed. */
V2E_API void v2e_decoder_close(v2e_decoder *decoder);

/* Gives back what nothing needs until the next call: the mapped pages of the model's files, which come back when they
 * are touched, and what the process's allocator keeps of freed memory; with
 * offload_weights the weights on the GPU, for which it waits until no session computes. Legal from every thread at any
 * time, but not from a callback. */
V2E_API void v2e_decoder_trim(const v2e_decoder *decoder);

/* KV pages that sessions have left for others. Legal from every thread at any time. */
typedef struct v2e_prefix_cache {
    size_t struct_size;
    uint64_t budget_bytes;
    uint64_t kept_bytes; /* pages that no session holds: within the budget, and given back with the model */
    uint64_t pages;      /* number of pages that can be found, those that sessions hold included */
} v2e_prefix_cache;

V2E_API v2e_status v2e_decoder_prefix_cache(const v2e_decoder *decoder, v2e_prefix_cache *cache);
/* Another budget from now on; what is beyond it goes at once. 0: sessions share what one of them holds. */
V2E_API v2e_status v2e_decoder_resize_prefix_cache(const v2e_decoder *decoder, uint64_t budget_bytes);

typedef struct v2e_decoder_session_options {
    size_t struct_size;
    uint32_t context_length; /* positions; 0: the model's max_context. Memory grows with use. */
    uint32_t kv_precision;   /* v2e_kv_precision */
    uint32_t prefill_chunk;  /* positions computed together; 0: 256. Does not change the result. */
    uint32_t reuse;          /* v2e_reuse. Does not change the result. */
} v2e_decoder_session_options;

typedef struct v2e_segment {
    const int32_t *tokens;   /* count token ids, or NULL */
    const float *embeddings; /* (count, hidden_size), or NULL */
    size_t count;
} v2e_segment;

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

/* What all calls of generate and prefill have done since the session was opened. */
typedef struct v2e_decoder_session_counters {
    size_t struct_size;
    uint64_t tokens;          /* tokens that were chosen and decoded */
    uint64_t steps;           /* steps of the decoder; without drafts there is one for each token */
    uint64_t drafted_tokens;  /* drafted tokens that these steps checked */
    uint64_t accepted_tokens; /* drafted tokens that were right and needed no step of their own */
    uint64_t prefilled_positions;
    uint64_t reused_positions; /* prefilled positions that an earlier call of this or another session had computed */
} v2e_decoder_session_counters;

typedef struct v2e_decoder_session v2e_decoder_session;

V2E_API v2e_status v2e_decoder_session_open(const v2e_decoder *decoder, const v2e_decoder_session_options *options,
                                            v2e_decoder_session **session);
V2E_API void v2e_decoder_session_close(v2e_decoder_session *session);

/* Appends segments to the session. Keeps the logits of the last logit_rows positions (0: only the very last are
 * needed for generate and are always kept). On failure or cancellation the session is as it was before the call. */
V2E_API v2e_status v2e_decoder_session_prefill(v2e_decoder_session *session, const v2e_segment *segments,
                                               size_t segment_count, size_t logit_rows, v2e_event_callback callback,
                                               void *user_data);

/* The last `rows` rows of logits kept by the last prefill or decode step: logits (rows, vocabulary_size). */
V2E_API v2e_status v2e_decoder_session_logits(const v2e_decoder_session *session, size_t rows, float *logits);

/* Chooses tokens from the kept logits, reports each as an event and decodes it. Every reported token is in the
 * session when the call returns, cancelled or not; one whose step a cancel cut short has no logits yet, and the next
 * call of prefill, generate or save decodes it first. */
V2E_API v2e_status v2e_decoder_session_generate(v2e_decoder_session *session, const v2e_generate_options *options,
                                                v2e_event_callback callback, void *user_data, v2e_stop_reason *reason);

/* Positions in the KV cache. */
V2E_API size_t v2e_decoder_session_length(const v2e_decoder_session *session);
/* Bytes that the KV cache holds now; 0 when a backend fails to say. */
V2E_API uint64_t v2e_decoder_session_kv_bytes(const v2e_decoder_session *session);
/* What generate and prefill have cost so far. */
V2E_API v2e_status v2e_decoder_session_count(const v2e_decoder_session *session,
                                             v2e_decoder_session_counters *counters);
/* Forgets all positions from `length` on. The kept logits are gone: prefill at least one position before generate. */
V2E_API v2e_status v2e_decoder_session_truncate(v2e_decoder_session *session, size_t length);

/* A session in one file: what stood at its positions, their keys and values, the logits of the last one, and a note of
 * the caller. It goes with the bundle that decoder_directory is part of: beside the directory there must be its
 * valley2.json. The file appears whole or not at all. docs/reuse.md describes it. */

/* note: UTF-8, at most 16 MiB; NULL: an empty one. What saves to the same path have left beside it, because their
 * process was killed, goes. */
V2E_API v2e_status v2e_decoder_session_save(v2e_decoder_session *session, const char *path, const char *note);
/* A session that goes on as the saved one would have. What is 0 in the options is as it was; another kv_precision is
 * V2E_ERROR_INPUT, and so is a file that is no saved session, is damaged, or belongs to another bundle. The file may
 * come from anybody, so that the session shares nothing with others, whatever reuse says. */
V2E_API v2e_status v2e_decoder_session_load(const v2e_decoder *decoder, const char *path,
                                            const v2e_decoder_session_options *options, v2e_decoder_session **session);
/* The note that the session was loaded with; "" when it was not loaded. Valid until the session is closed. */
V2E_API const char *v2e_decoder_session_note(const v2e_decoder_session *session);

/* Stops the running call, or else the next ones, with V2E_ERROR_CANCELLED, at the next piece of work of each thread:
 * some milliseconds on the processor, two layers of a chunk or one step on a GPU, with a backend what its `cancel`
 * takes. Stays in force until v2e_decoder_session_resume. */
V2E_API void v2e_decoder_session_cancel(v2e_decoder_session *session);
V2E_API void v2e_decoder_session_resume(v2e_decoder_session *session);

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
    /* The tower computes on the threads of this decoder, which may be closed before it; NULL: on threads of its own.
     * What both compute at the same time they share these threads for. */
    const v2e_decoder *threads_of;
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
 * The plan of v2e_model_plan, by the numbers that it is made of. */

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
    uint64_t prefix_cache_bytes; /* as in v2e_decoder_options; 0: 256 MiB */
    uint32_t no_prefix_cache;    /* as in v2e_decoder_options */
    uint32_t device;             /* v2e_device of the decoder */
    uint32_t gpu_layers;         /* the first ones, on the GPU; 0: as many as fit */
    uint64_t gpu_memory;         /* bytes of the GPU's memory; 0: what its driver says is free */
    uint32_t offload_weights;    /* as in v2e_decoder_options: the decoder's weights go while pictures are encoded */
    const v2e_backend *decoder_backend; /* computes the decoder and says what it takes; NULL: the core does */
    const v2e_backend *vision_backend;  /* the same of the vision components */
    /* What the pictures are to be planned with: of each then only width and height count. NULL: they are planned
     * already, and a choice gives up nothing of them. */
    const v2e_geometry_options *geometry;
} v2e_memory_options;

/* bundle_directory holds valley2.json, UTF-8. Fails with V2E_ERROR_BUDGET when the pictures do not fit the context. */
V2E_API v2e_status v2e_plan_memory(const char *bundle_directory, const v2e_memory_options *options,
                                   v2e_memory_plan *plan);

/* Gives up as little as possible until the plan keeps the limit, in this order: engines that stay loaded, what is kept
 * for reuse (embeddings, then KV pages), the prefill's chunk, the context where context_length is 0, the precision of
 * the KV cache unless a backend computes the decoder, Eagle tokens of a picture, tiles, the Eagle branch. What there is
 * room for is taken back, the last first. Fails with V2E_ERROR_BUDGET when nothing keeps the limit; the sentence says
 * what would.
 * limit_bytes: most memory of the whole process, process_bytes included; 0: no limit. plan: what the choice costs; NULL
 * is allowed. */
V2E_API v2e_status v2e_choose_memory(const char *bundle_directory, uint64_t limit_bytes,
                                     const v2e_memory_options *options, v2e_memory_choice *choice,
                                     v2e_memory_plan *plan);

/* What can be on a GPU at the same time. */
typedef struct v2e_gpu_share {
    size_t struct_size;
    uint32_t keep_vision; /* as in v2e_memory_options, like the next one */
    uint32_t offload_weights;
    char changes[128]; /* what was chosen, a part of a sentence; "" when the vision engines are not on the GPU */
} v2e_gpu_share;

/* How the decoder and the vision engines of a backend share a GPU. The first of these that fits with all layers (or
 * with gpu_layers of them): everything stays; the engines go after use; the decoder's weights go as well while pictures
 * are encoded. Else the one with which most layers fit. keep_vision and offload_weights of the options count where the
 * vision engines are not on a GPU alone. Fails with V2E_ERROR_BUDGET when nothing fits; the sentence says what would.
 * plan: NULL is allowed. */
V2E_API v2e_status v2e_share_gpu(const char *bundle_directory, const v2e_memory_options *options, v2e_gpu_share *share,
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

/* ---------------------------------------------------------------- rounding
 * What GPTQ (arXiv 2210.17323) and the descent behind it do to the rows of a matrix between two matrix products. Rows
 * are given in multiples of 16 and depend neither on one another nor on the number of threads. With every instruction
 * set that multiplies and adds with one rounding the bits are the same; V2E_ISA_PORTABLE rounds twice. */

/* The levels of a group: weight = (value - zero) * scale, with a scale that fp16 has. */
typedef struct v2e_grid {
    size_t struct_size;
    uint32_t bits;       /* 4 or 8 */
    uint32_t group_size; /* columns that share a scale: 32, 64 or 128 */
    uint32_t has_zeros;  /* 0: the zero point is 8 or 128; 1: each group has its own, with 4 bits alone */
    uint32_t search;     /* 0: a scale covers the range of its group; 1: it is the best of some, for the given costs */
} v2e_grid;

/* What can be wrong with weights; bits of a number. */
typedef enum v2e_rounding_fault { V2E_ROUNDING_NOT_FINITE = 1, V2E_ROUNDING_SCALE_TOO_LARGE = 2 } v2e_rounding_fault;

typedef struct v2e_rounder v2e_rounder;

/* threads: 0: as many as the process may run on. isa: v2e_isa. */
V2E_API v2e_status v2e_rounder_open(uint32_t threads, uint32_t isa, v2e_rounder **rounder);
/* NULL is allowed. */
V2E_API void v2e_rounder_close(v2e_rounder *rounder);

/* Chooses the scales and zero points of all groups. weights: (rows, columns) with a stride. importance: (columns,),
 * what a squared error costs. scales, zeros: (columns / group_size, rows). faults: of all weights together. */
V2E_API v2e_status v2e_fit_groups(v2e_rounder *rounder, const v2e_grid *grid, const float *weights, uint64_t stride,
                                  const float *importance, uint64_t rows, uint64_t columns, float *scales, float *zeros,
                                  uint32_t *faults);

typedef struct v2e_column_block {
    size_t struct_size;
    uint64_t rows;
    uint64_t count;          /* positions, at most 128; whole groups with fits_groups */
    uint64_t all_columns;    /* of the matrix */
    uint32_t fits_groups;    /* 1: scales are chosen when the last position of a group is reached */
    const uint32_t *columns; /* (count,): the column of each position */
    const float *triangle;   /* (count, count) with a stride: L of H = L D L^T, its diagonal 1 */
    uint64_t triangle_stride;
    const float *importance; /* (count,): what a squared error costs; fits_groups alone reads it */
    float *targets;          /* (count, rows): weights minus the changes of later positions times their factors;
                                becomes value minus target */
    float *weights;          /* (count, rows): the exact weights; becomes value minus weight */
    float *scales;           /* (groups, rows) */
    float *zeros;            /* (groups, rows) */
    uint8_t *values;         /* (rows, all_columns) */
} v2e_column_block;

/* Rounds the positions of a block from the last one to the first; each changes the targets of those before it. */
V2E_API v2e_status v2e_round_columns(v2e_rounder *rounder, const v2e_grid *grid, const v2e_column_block *block,
                                     uint32_t *faults);

typedef struct v2e_visit_block {
    size_t struct_size;
    uint64_t rows;
    uint64_t count;          /* columns, at most 1024; whole groups */
    uint32_t rounds;         /* over the columns of each 128 of them */
    uint32_t fits_scales;    /* 1: the scales are fitted to the integers as well */
    uint32_t updates_slopes; /* 1: changes are applied to the slopes of these columns; needed above 128 columns */
    const float *hessian;    /* (count, count) with a stride */
    uint64_t hessian_stride;
    const float *added; /* (count,): what is added to its diagonal */
    float *slopes;      /* (rows, count) with a stride: change of the weights times all of the damped Hessian */
    uint64_t slope_stride;
    uint8_t *values; /* (rows, count) with a stride */
    uint64_t value_stride;
    float *scales;      /* (count / group_size, rows) */
    const float *zeros; /* (count / group_size, rows) */
    float *changes;     /* (rows, count): what every weight has changed by */
    double *gains;      /* (rows,): what the error of each row fell by is added */
    uint8_t *moved;     /* (rows,): becomes 1 where a value has changed */
} v2e_visit_block;

/* Gives each integer of the columns its best level while all others stay, one after the other (arXiv 2309.01885). */
V2E_API v2e_status v2e_visit_columns(v2e_rounder *rounder, const v2e_grid *grid, const v2e_visit_block *block);

/* target += changes * matrix, where most of the changes are 0. changes: (rows, inner), inner at most 1024. matrix:
 * (inner, columns) with a stride. target: (rows, columns) with a stride. columns: a multiple of 16; any rows. */
V2E_API v2e_status v2e_add_sparse_product(v2e_rounder *rounder, const float *changes, uint64_t rows, uint64_t inner,
                                          const float *matrix, uint64_t matrix_stride, uint64_t columns, float *target,
                                          uint64_t target_stride);

/* ---------------------------------------------------------------- policy
 * What a conversation decides about pictures (docs/valley2.md, "Policies"), as options for the geometry of each. */

typedef struct v2e_picture_policy {
    size_t struct_size;
    uint32_t repo;             /* 0: hub, 1: repo */
    uint32_t no_tiles;         /* 1: no picture is cut into tiles */
    uint32_t no_eagle;         /* 1: no picture goes through the Eagle branch */
    uint32_t eagle_preset;     /* v2e_eagle_preset */
    uint32_t eagle_max_tokens; /* of a picture, in the place of the preset's cap; 0: that */
    uint32_t eagle_min_tokens; /* lifts the preset's cap; 0: 4, or the cap where that is less */
} v2e_picture_policy;

/* What a bundle's architecture says about pictures. */
typedef struct v2e_picture_architecture {
    size_t struct_size;
    uint32_t image_size;       /* side of a SigLIP tile in pixels */
    uint32_t tokens_per_side;  /* of a tile behind the projector */
    uint32_t no_eagle;         /* 1: it has no Eagle branch */
    uint32_t no_anyres;        /* 1: pictures are not cut into tiles */
    uint32_t crops_several;    /* 1: under hub several pictures of a question are cut as well */
    uint32_t max_vision_token; /* most SigLIP tokens of one picture */
    const uint32_t *canvases;  /* (canvas_count, 2), as in v2e_geometry_options */
    size_t canvas_count;
} v2e_picture_architecture;

/* For each of picture_count pictures of a question; video: 1: there are frames of a video among them. The options'
 * canvases are those of the architecture, and without any NULL. */
V2E_API v2e_status v2e_choose_geometry(const v2e_picture_policy *policy, const v2e_picture_architecture *architecture,
                                       size_t picture_count, uint32_t video, v2e_geometry_options *options);

/* ---------------------------------------------------------------- vision encoder
 * The vision half of a bundle in one piece: pictures go in, embeddings come out. Towers are loaded when they are
 * needed, SigLIP and the projector before Eagle, and what a backend cannot compute the core's own towers do. Threads
 * share an encoder: a call waits for the one before it, and its stop ends the wait. */

typedef struct v2e_vision v2e_vision;

/* What stops a call; it belongs to one call at a time. */
typedef struct v2e_vision_stop v2e_vision_stop;

/* What became of one picture. */
typedef struct v2e_embeddings v2e_embeddings;

typedef enum v2e_vision_event_kind {
    V2E_VISION_SIGLIP = 1, /* done of total tiles have gone through SigLIP and the projector */
    V2E_VISION_EAGLE = 2,  /* done of total pictures have gone through Eagle */
    V2E_VISION_BUILD = 3,  /* done of total steps of what a backend prepares */
    V2E_VISION_LAYER = 4,  /* done of total layers of the tower that runs */
    V2E_VISION_NOTICE = 5  /* text is a sentence for people: the core computes in a backend's place */
} v2e_vision_event_kind;

typedef struct v2e_vision_event {
    size_t struct_size;
    uint32_t kind; /* v2e_vision_event_kind */
    uint64_t done;
    uint64_t total;
    const char *text; /* V2E_VISION_NOTICE only, UTF-8, valid until the callback returns */
} v2e_vision_event;

/* Return 0 to go on; anything else cancels the call. It cannot call the encoder, but for its description. */
typedef int (*v2e_vision_callback)(const v2e_vision_event *event, void *user_data);

typedef struct v2e_vision_options {
    size_t struct_size;
    /* The files of the core's towers; all NULL: what the manifest of the bundle names, one NULL: there is none. */
    const char *siglip_path;
    const char *projector_path;
    const char *eagle_path;
    const v2e_file_stamp *siglip_stamp; /* what the files must be; NULL: any file */
    const v2e_file_stamp *projector_stamp;
    const v2e_file_stamp *eagle_stamp;
    uint32_t threads;              /* of each tower, without threads_of; 0: as many as the process may run on */
    uint32_t isa;                  /* v2e_isa of the core's towers; one that the machine lacks is V2E_ERROR_INPUT */
    uint32_t keep;                 /* 1: towers stay between calls; 0: each goes after its use */
    uint32_t layers;               /* 1: callbacks hear V2E_VISION_LAYER */
    uint64_t cache_bytes;          /* most bytes of embeddings that are kept for pictures that come again */
    const v2e_decoder *threads_of; /* as in v2e_tower_options */
    const v2e_decoder *trims;      /* is trimmed when towers come or go, unless they are kept; outlives such calls */
    const v2e_backend *backend;    /* computes what it can; outlives the encoder. NULL: the core does */
} v2e_vision_options;

typedef struct v2e_vision_picture {
    size_t struct_size;
    const uint8_t *pixels; /* (height, width, 3) */
    uint32_t width;        /* pixels */
    uint32_t height;
    const v2e_geometry_options *options; /* their callback is not called */
} v2e_vision_picture;

/* What a call took. */
typedef struct v2e_vision_use {
    size_t struct_size;
    uint64_t hits; /* pictures that were not computed: the cache knows them, or they came before in this call */
    double load_seconds;
    double preprocess_seconds;
    double siglip_seconds;
    double projector_seconds;
    double eagle_seconds;
    uint32_t has_vocabulary; /* 1: a projector of the core has run; the following are those of v2e_tower_vocabulary */
    double dropped_mass;
    uint64_t tokens;
    uint64_t entries;
    uint64_t multiplied;
} v2e_vision_use;

typedef struct v2e_vision_description {
    size_t struct_size;
    char engine[64];    /* "native", or the name of the backend unless it cannot compute here at all */
    char siglip[64];    /* what computes it, "native avx2" or the backend's name; empty: it was never loaded */
    char projector[64]; /* the same */
    char eagle[64];
    uint32_t siglip_loaded; /* 1: it is in memory now */
    uint32_t projector_loaded;
    uint32_t eagle_loaded;
    uint32_t keeps;              /* 1: towers stay between calls */
    uint64_t cache_bytes;        /* bytes of embeddings that are kept now */
    uint64_t cache_budget_bytes; /* most bytes of them */
} v2e_vision_description;

V2E_API v2e_status v2e_vision_stop_open(v2e_vision_stop **stop);
/* Ends the call, and those that follow until v2e_vision_stop_clear, with V2E_ERROR_CANCELLED; from every thread. */
V2E_API void v2e_vision_stop_set(v2e_vision_stop *stop);
V2E_API void v2e_vision_stop_clear(v2e_vision_stop *stop);
/* NULL is allowed. */
V2E_API void v2e_vision_stop_close(v2e_vision_stop *stop);

/* bundle_directory: UTF-8. Nothing is loaded. */
V2E_API v2e_status v2e_vision_open(const char *bundle_directory, const v2e_vision_options *options,
                                   v2e_vision **vision);
/* pictures, embeddings: (count,). stop, callback, use: may be NULL. On failure no embeddings are left to release. */
V2E_API v2e_status v2e_vision_encode(v2e_vision *vision, const v2e_vision_picture *pictures, size_t count,
                                     v2e_vision_stop *stop, v2e_vision_callback callback, void *user_data,
                                     v2e_vision_use *use, v2e_embeddings **embeddings);
/* One component by itself, which stays loaded until the end of the next v2e_vision_encode or v2e_vision_release.
 * row_floats: numbers in one tile, the features of one tile, or one patch. output: (output_floats,). */
V2E_API v2e_status v2e_vision_run(v2e_vision *vision, uint32_t component, const v2e_tower_input *input,
                                  size_t row_floats, float *output, size_t output_floats, v2e_vision_stop *stop,
                                  v2e_vision_callback callback, void *user_data);
/* The following five are legal from every thread at any time; v2e_vision_release waits for the call that runs. */
V2E_API v2e_status v2e_vision_describe(const v2e_vision *vision, v2e_vision_description *description);
V2E_API v2e_status v2e_vision_keep(v2e_vision *vision, uint32_t keep);
V2E_API v2e_status v2e_vision_resize_cache(v2e_vision *vision, uint64_t budget_bytes);
V2E_API v2e_status v2e_vision_clear_cache(v2e_vision *vision);
/* Unloads the towers; the next call loads them again. */
V2E_API v2e_status v2e_vision_release(v2e_vision *vision);
/* NULL is allowed. */
V2E_API void v2e_vision_close(v2e_vision *vision);

/* (tokens, hidden_size), SigLIP's tokens and then Eagle's. Nobody may write to them. */
V2E_API v2e_status v2e_embeddings_read(const v2e_embeddings *embeddings, const float **values, size_t *tokens,
                                       size_t *hidden_size);
/* NULL is allowed. */
V2E_API void v2e_embeddings_release(v2e_embeddings *embeddings);

/* ---------------------------------------------------------------- room
 * Whether a question has the room that it needs. A conversation asks before it computes anything. */

/* V2E_ERROR_BUDGET when the plan of the options is above the limit. Pictures that do not fit the context are left to
 * v2e_check_context, which says it better. */
V2E_API v2e_status v2e_check_memory(const char *bundle_directory, uint64_t limit_bytes,
                                    const v2e_memory_options *options);

typedef struct v2e_context_question {
    size_t struct_size;
    const v2e_geometry *pictures; /* (picture_count): width and height of each */
    size_t picture_count;
    const v2e_geometry_options *geometry; /* how these pictures become tokens; NULL: by default */
    const v2e_geometry_options *alone;    /* how the first of them would if it were the only one; NULL: likewise */
    uint32_t video;                       /* 1: the pictures are frames of a video */
    uint64_t text_tokens;
    uint64_t fresh_text_tokens; /* what the same text takes when it begins a conversation */
    uint64_t context_length;    /* positions of the session */
    uint64_t used;              /* of these, before the question */
    uint64_t max_context;       /* positions that the model was trained for */
} v2e_context_question;

/* V2E_ERROR_BUDGET when the question and one token of an answer do not fit the context. The sentence names what would
 * make it fit, in the words of the command's options: fewer tokens of a picture, fewer pictures, a longer context, a
 * new conversation. Each of these is computed with the question's own arithmetic. */
V2E_API v2e_status v2e_check_context(const v2e_context_question *question);

/* ---------------------------------------------------------------- text
 * Qwen2.5's tokenizer, the way back from ids to text, and the prompt. Texts are UTF-8 with an explicit size in bytes
 * and may hold zeros; a NULL is allowed where the size is 0. A tokenizer is immutable and may be shared by threads. */

typedef struct v2e_tokenizer v2e_tokenizer;

/* Reads the content of a tokenizer.json. name: the file in messages, ended by a zero. */
V2E_API v2e_status v2e_tokenizer_parse(const char *content, size_t size, const char *name, v2e_tokenizer **tokenizer);
/* Reads a file, which may be of 64 MiB. path: UTF-8, ended by a zero. */
V2E_API v2e_status v2e_tokenizer_open(const char *path, v2e_tokenizer **tokenizer);
/* NULL is allowed. */
V2E_API void v2e_tokenizer_close(v2e_tokenizer *tokenizer);

/* Token ids of a text. with_controls: 0: strings that look like control tokens stay ordinary characters; 1: they become
 * control tokens, as in the reference. ids: (capacity,), or NULL with capacity 0; as many as have room are written.
 * count: how many there are. */
V2E_API v2e_status v2e_tokenizer_encode(const v2e_tokenizer *tokenizer, const char *text, size_t size,
                                        uint32_t with_controls, int32_t *ids, size_t capacity, size_t *count);
/* The bytes that a token stands for, none for an id without a token. They live as long as the tokenizer. */
V2E_API v2e_status v2e_tokenizer_token_bytes(const v2e_tokenizer *tokenizer, int32_t token, const char **bytes,
                                             size_t *size);
/* The id of a control token such as <|im_end|>; -1: there is no such token. */
V2E_API v2e_status v2e_tokenizer_find_control(const v2e_tokenizer *tokenizer, const char *content, size_t size,
                                              int32_t *token);
V2E_API v2e_status v2e_tokenizer_largest_id(const v2e_tokenizer *tokenizer, int32_t *largest);

/* Turns tokens into text as they come and never splits a character: what is not UTF-8 becomes U+FFFD, the literal
 * <|im_end|> is removed. It belongs to one thread at a time and keeps what it needs of the tokenizer. */
typedef struct v2e_text_stream v2e_text_stream;

V2E_API v2e_status v2e_text_stream_open(const v2e_tokenizer *tokenizer, v2e_text_stream **stream);
/* NULL is allowed. */
V2E_API void v2e_text_stream_close(v2e_text_stream *stream);
/* Takes tokens. text: what is certain now; it lives until the next call with this stream. */
V2E_API v2e_status v2e_text_stream_push(v2e_text_stream *stream, const int32_t *tokens, size_t count, const char **text,
                                        size_t *size);
/* What is left when no token follows; the stream can then take another text. */
V2E_API v2e_status v2e_text_stream_finish(v2e_text_stream *stream, const char **text, size_t *size);

/* Finds the strings that end an answer in a text that comes in pieces. It belongs to one thread at a time. */
typedef struct v2e_stop_strings v2e_stop_strings;

/* strings, sizes: (count,), at most 64 of 1024 bytes each. */
V2E_API v2e_status v2e_stop_strings_open(const char *const *strings, const size_t *sizes, size_t count,
                                         v2e_stop_strings **stops);
/* NULL is allowed. */
V2E_API void v2e_stop_strings_close(v2e_stop_strings *stops);
/* Takes whole characters. kept: what is now certain to stand before a stop string; it lives until the next call with
 * this object. stopped: 1: a stop string was found, and nothing more comes. */
V2E_API v2e_status v2e_stop_strings_push(v2e_stop_strings *stops, const char *text, size_t size, const char **kept,
                                         size_t *kept_size, uint32_t *stopped);
/* What is left when no text follows. */
V2E_API v2e_status v2e_stop_strings_finish(v2e_stop_strings *stops, const char **kept, size_t *kept_size);

/* ---------------------------------------------------------------- prompt
 * From a conversation to the model's prompt: docs/valley2.md, "Prompt". */

typedef enum v2e_prompt_policy { V2E_PROMPT_HUB = 0, V2E_PROMPT_REPO = 1 } v2e_prompt_policy;

typedef struct v2e_prompt_layout {
    size_t struct_size;
    uint32_t policy;      /* v2e_prompt_policy */
    uint32_t strict;      /* 1: exactly as the reference; an <image> in a text is the place of a picture */
    uint32_t not_wrapped; /* 0: each picture stands between <im_start> and <im_end> */
} v2e_prompt_layout;

typedef enum v2e_prompt_role { V2E_PROMPT_SYSTEM = 0, V2E_PROMPT_USER = 1, V2E_PROMPT_ASSISTANT = 2 } v2e_prompt_role;

typedef struct v2e_prompt_message {
    uint32_t role; /* v2e_prompt_role */
    const char *text;
    size_t size;
    size_t picture_count; /* of a user's turn: they stand in front of the text */
} v2e_prompt_message;

typedef enum v2e_prompt_part_kind {
    V2E_PROMPT_TEXT = 0,    /* ordinary characters */
    V2E_PROMPT_CONTROL = 1, /* a control token, by its content */
    V2E_PROMPT_PICTURE = 2  /* the place of the next picture; the text is empty */
} v2e_prompt_part_kind;

typedef struct v2e_prompt_part {
    uint32_t kind; /* v2e_prompt_part_kind */
    const char *text;
    size_t size;
} v2e_prompt_part;

typedef struct v2e_prompt v2e_prompt;

/* Lays out a whole conversation up to the point where the assistant answers: perhaps a system prompt, then user and
 * assistant by turns, the user last. Without a system prompt it is the policy's. messages: (count,). */
V2E_API v2e_status v2e_prompt_open(const v2e_prompt_layout *layout, const v2e_prompt_message *messages, size_t count,
                                   v2e_prompt **prompt);
/* Lays out a further question: closes the answer before it and puts its pictures in front of it. */
V2E_API v2e_status v2e_prompt_open_next(const v2e_prompt_layout *layout, const char *question, size_t size,
                                        size_t picture_count, v2e_prompt **prompt);
/* NULL is allowed. */
V2E_API void v2e_prompt_close(v2e_prompt *prompt);
/* The parts of a prompt, which live as long as it. */
V2E_API v2e_status v2e_prompt_parts(const v2e_prompt *prompt, const v2e_prompt_part **parts, size_t *count);

/* Token ids of a prompt's parts, -200 where a picture stands. strict: 1: the parts are one string, in which a user can
 * write control tokens. ids, capacity and count are as in v2e_tokenizer_encode. */
V2E_API v2e_status v2e_prompt_encode(const v2e_tokenizer *tokenizer, const v2e_prompt_part *parts, size_t part_count,
                                     uint32_t strict, int32_t *ids, size_t capacity, size_t *count);

#ifdef __cplusplus
}
#endif

#endif /* VALLEY2_PARTS_H */

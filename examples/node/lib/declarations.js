// What this package uses of valley2.h. The structs are compared with the header, field by field, by a test.
import koffi from 'koffi';

for (const handle of ['v2e_model', 'v2e_session', 'v2e_picture', 'v2e_answer', 'v2e_cancel']) koffi.opaque(handle);

koffi.struct('v2e_event', {
  struct_size: 'size_t',
  kind: 'uint32_t',
  done: 'uint64_t',
  total: 'uint64_t',
  token: 'int32_t',
  elapsed_ms: 'double',
  text: 'void *', // read by its size: a text may hold any character
  size: 'size_t',
  reason: 'uint32_t',
});

koffi.proto('int v2e_event_callback(const v2e_event *event, void *user_data)');

koffi.struct('v2e_model_options', {
  struct_size: 'size_t',
  threads: 'uint32_t',
  isa: 'uint32_t',
  activations: 'uint32_t',
  device: 'uint32_t',
  gpu_layers: 'uint32_t',
  gpu_context: 'uint32_t',
  gpu_memory: 'uint64_t',
  memory: 'uint64_t',
  keep_vision: 'uint32_t',
  no_vision_cache: 'uint32_t',
  vision_cache_bytes: 'uint64_t',
  no_prefix_cache: 'uint32_t',
  prefix_cache_bytes: 'uint64_t',
  check: 'uint32_t',
  verified_files: 'const char *',
  vision_backend: 'void *',
  decoder_backend: 'void *',
  cancel: 'v2e_cancel *',
  callback: 'v2e_event_callback *',
  user_data: 'void *',
});

koffi.struct('v2e_session_options', {
  struct_size: 'size_t',
  system: 'const char *',
  think: 'uint32_t',
  context_length: 'uint32_t',
  kv_precision: 'uint32_t',
  prefill_chunk: 'uint32_t',
  reuse: 'uint32_t',
  policy: 'uint32_t',
  strict: 'uint32_t',
  no_eagle: 'uint32_t',
  no_tiles: 'uint32_t',
  eagle_preset: 'uint32_t',
  eagle_max_tokens: 'uint32_t',
  eagle_min_tokens: 'uint32_t',
  max_picture_pixels: 'uint64_t',
});

koffi.struct('v2e_question', {
  struct_size: 'size_t',
  text: 'const char *',
  pictures: 'v2e_picture **',
  picture_count: 'size_t',
  video: 'uint32_t',
  messages: 'void *',
  message_count: 'size_t',
  think: 'uint32_t',
  no_think: 'uint32_t',
  max_new_tokens: 'uint32_t',
  temperature: 'float',
  top_k: 'uint32_t',
  top_p: 'float',
  min_p: 'float',
  repetition_penalty: 'float',
  fixed_seed: 'uint32_t',
  seed: 'uint64_t',
  speculation: 'uint32_t',
  stop_texts: 'const char **',
  stop_text_count: 'size_t',
  token_events: 'uint32_t',
  most_ahead: 'uint32_t',
  cancel: 'v2e_cancel *',
  notify: 'void *',
  notify_data: 'void *',
});

koffi.struct('v2e_statistics', {
  struct_size: 'size_t',
  pictures: 'uint32_t',
  tiles: 'uint32_t',
  vision_cache_hits: 'uint32_t',
  stop: 'uint32_t',
  vision_cache_bytes: 'uint64_t',
  siglip_tokens: 'uint64_t',
  eagle_tokens: 'uint64_t',
  text_tokens: 'uint64_t',
  new_tokens: 'uint64_t',
  reused_tokens: 'uint64_t',
  decode_steps: 'uint64_t',
  drafted_tokens: 'uint64_t',
  accepted_tokens: 'uint64_t',
  context_used: 'uint64_t',
  context_length: 'uint64_t',
  kv_bytes: 'uint64_t',
  prefix_cache_bytes: 'uint64_t',
  peak_memory_bytes: 'uint64_t',
  seed: 'uint64_t',
  wait_seconds: 'double',
  vision_load_seconds: 'double',
  preprocess_seconds: 'double',
  siglip_seconds: 'double',
  projector_seconds: 'double',
  eagle_seconds: 'double',
  prefill_seconds: 'double',
  decode_seconds: 'double',
  first_token_seconds: 'double',
  total_seconds: 'double',
  dropped_mass: 'double',
  vocabulary_share: 'double',
});

export const Status = { OK: 0, INPUT: 1 };
export const Event = { NONE: 0, PREFILL: 1, LAYER: 3, TEXT: 5, END: 6, CHECK: 7, LOAD: 8, TILE: 9, PICTURE: 10, WARNING: 11 };
export const CODES = ['ok', 'input', 'bundle', 'budget', 'cancelled', 'numeric', 'internal', 'engine', 'unread'];
export const STOPS = ['none', 'token', 'length', 'context', 'text', 'cancelled', 'left'];

/** A struct of options as C takes it: its size, and the given fields by their names in the header. */
export function struct(name, fields = {}) {
  const { size, members } = koffi.type(name);
  for (const field in fields) if (!(field in members)) throw new TypeError(`${name} has no field ${field}`);
  return { struct_size: size, ...fields };
}

const FILE = { win32: 'valley2.dll', darwin: 'libvalley2.dylib' }[process.platform] ?? 'libvalley2.so.0';

/** The functions of the library at a path, or of the one that the system's loader finds by its name. */
export function load(path = FILE) {
  let library;
  try {
    library = koffi.load(path);
  } catch (cause) {
    throw new Error(`${path} cannot be loaded. VALLEY2_LIBRARY, or the option "library", says where it is.`, { cause });
  }
  const functions = {};
  for (const prototype of [
    'const char *v2e_last_error()',
    'int v2e_cancel_create(_Out_ v2e_cancel **cancel)',
    'void v2e_cancel_set(v2e_cancel *cancel)',
    'void v2e_cancel_destroy(v2e_cancel *cancel)',
    'int v2e_picture_decode(const void *bytes, size_t size, void *options, _Out_ v2e_picture **picture)',
    'void v2e_picture_close(v2e_picture *picture)',
    'int v2e_model_open(const char *bundle, const v2e_model_options *options, _Out_ v2e_model **model)',
    'void v2e_model_close(v2e_model *model)',
    'int v2e_session_open(v2e_model *model, const v2e_session_options *options, _Out_ v2e_session **session)',
    'void v2e_session_close(v2e_session *session)',
    'int v2e_session_ask(v2e_session *session, const v2e_question *question, _Out_ v2e_answer **answer)',
    'int v2e_answer_next(v2e_answer *answer, uint32_t timeout_ms, _Inout_ v2e_event *event)',
    'int v2e_answer_statistics(v2e_answer *answer, _Inout_ v2e_statistics *statistics)',
    'void v2e_answer_cancel(v2e_answer *answer)',
    'void v2e_answer_close(v2e_answer *answer)',
  ]) functions[prototype.match(/v2e_\w+(?=\()/)[0]] = library.func(prototype);
  return functions;
}

/** What an event of the library says, for JavaScript. */
export function progress({ kind, done, total, text, size }) {
  const stage = Object.keys(Event).find((name) => Event[name] === kind)?.toLowerCase() ?? 'other';
  return { stage, done: Number(done), total: Number(total), text: text ? koffi.decode.string(text, Number(size)) : '' };
}

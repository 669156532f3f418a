/** A failure, in the library's words. */
export class Valley2Error extends Error {
  readonly code: 'input' | 'bundle' | 'budget' | 'cancelled' | 'numeric' | 'internal' | 'engine' | 'unread';
}

/** How far a stage is: `done` of `total` tiles, layers, positions or bytes; a warning is a sentence in `text`. */
export interface Progress {
  stage: 'check' | 'load' | 'pixels' | 'tile' | 'layer' | 'picture' | 'prefill' | 'token' | 'warning' | 'other';
  done: number;
  total: number;
  text: string;
}

/** The shared library: a path, else VALLEY2_LIBRARY, else what the system's loader finds by name. */
export interface LibraryChoice {
  library?: string;
}

/** The names and values of v2e_model_options in valley2.h. */
export interface ModelOptions extends LibraryChoice {
  threads?: number;
  device?: number;
  /** Most bytes of memory to use. */
  memory?: number | bigint;
  keep_vision?: number;
  check?: number;
  verified_files?: string;
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  [field: string]: unknown;
}

/** The names and values of v2e_session_options in valley2.h. */
export interface SessionOptions {
  system?: string;
  think?: number;
  context_length?: number;
  [field: string]: unknown;
}

/** The names and values of v2e_question in valley2.h. */
export interface QuestionOptions {
  /** Decoded pictures, or the bytes of a JPEG, PNG, WebP, GIF or BMP. */
  pictures?: Iterable<Picture | Uint8Array>;
  /** Stops the answer; the loop over it then throws the signal's reason. */
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  max_new_tokens?: number;
  temperature?: number;
  stop_texts?: string[];
  [field: string]: unknown;
}

/** What the library holds for the program until it is closed. */
declare class Handle {
  /** Gives it up. What others still need of it lives on. */
  close(): Promise<void>;
}

/** A picture, decoded once and good for any number of questions. */
export class Picture extends Handle {
  static decode(bytes: Uint8Array, choice?: LibraryChoice): Promise<Picture>;
}

/** A loaded bundle. */
export class Model extends Handle {
  /** Checks and maps a bundle, which takes seconds when it is new on the machine. */
  static open(bundle: string, options?: ModelOptions): Promise<Model>;
  /** Begins a conversation. */
  session(options?: SessionOptions): Promise<Session>;
}

/** A conversation: earlier questions, pictures and answers stay in its context. */
export class Session extends Handle {
  /** One question at a time: a new one ends the answer before it. */
  ask(question: string, options?: QuestionOptions): Answer;
}

/** An answer, piece by piece. The question is asked when the first piece is asked for; leaving the loop ends it. */
export class Answer implements AsyncIterable<string> {
  [Symbol.asyncIterator](): AsyncIterator<string>;
  /** The rest of the answer as one string. */
  text(): Promise<string>;
  /** Why the answer ended; null until then. */
  readonly stop: 'token' | 'length' | 'context' | 'text' | 'cancelled' | 'left' | null;
  /** What the question took, by the names of v2e_statistics; null until the end. */
  readonly statistics: Record<string, number | bigint> | null;
}

// Valley2 for Node.js and Electron: pictures and questions in, text out. lib/index.d.ts says what each function does.
import { promisify } from 'node:util';
import { CODES, Event, STOPS, Status, load, progress, struct } from './declarations.js';
import { Opener } from './opener.js';

export class Valley2Error extends Error {
  name = 'Valley2Error';

  constructor(sentence, status) {
    super(sentence);
    this.code = CODES[status] ?? 'internal';
  }
}

// How long one of libuv's threads, four by default, waits for an event before others may have it: files are read on them.
const WAIT_MS = 50;

const libraries = new Map();

/** The functions of a library, and the thread that opens things for it: one of each for a path. */
function loaded(path = process.env.VALLEY2_LIBRARY) {
  if (!libraries.has(path)) libraries.set(path, { ...load(path), opener: new Opener(path) });
  return libraries.get(path);
}

async function open(library, name, args, onProgress) {
  const { status, sentence, handle } = await library.opener.open(name, args, onProgress);
  if (status !== Status.OK) throw new Valley2Error(sentence, status);
  return handle;
}

class Handle {
  #handle;
  #close;

  constructor(library, handle, close) {
    this.library = library;
    this.#handle = handle;
    this.#close = promisify(library[close].async);
  }

  get handle() {
    if (this.#handle === null) throw new Valley2Error(`This ${this.constructor.name} is closed.`, Status.INPUT);
    return this.#handle;
  }

  async close() {
    const handle = this.#handle;
    this.#handle = null;
    if (handle !== null) await this.#close(handle);
  }
}

export class Picture extends Handle {
  static decode(bytes, { library } = {}) {
    return decode(loaded(library), bytes);
  }
}

async function decode(library, bytes) {
  const handle = await open(library, 'v2e_picture_decode', [bytes, bytes.byteLength, null]);
  return new Picture(library, handle, 'v2e_picture_close');
}

export class Model extends Handle {
  static async open(bundle, { library: path, signal, onProgress, ...options } = {}) {
    signal?.throwIfAborted();
    const library = loaded(path);
    const cancel = [null];
    library.v2e_cancel_create(cancel);
    const abort = () => library.v2e_cancel_set(cancel[0]);
    signal?.addEventListener('abort', abort);
    try {
      const fields = struct('v2e_model_options', { ...options, cancel: cancel[0] });
      return new Model(library, await open(library, 'v2e_model_open', [bundle, fields], onProgress), 'v2e_model_close');
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', abort);
      library.v2e_cancel_destroy(cancel[0]);
    }
  }

  async session(options) {
    const fields = struct('v2e_session_options', options);
    const handle = await open(this.library, 'v2e_session_open', [this.handle, fields]);
    return new Session(this.library, handle, 'v2e_session_close');
  }
}

export class Session extends Handle {
  ask(question, options = {}) {
    return new Answer((answer) => this.#pieces(answer, question, options));
  }

  async *#pieces(answer, text, { pictures = [], stop_texts = [], signal, onProgress, ...options }) {
    const { library } = this;
    const decoded = []; // for this question alone
    const handle = [null];
    const abort = () => library.v2e_answer_cancel(handle[0]); // of no answer yet: nothing
    signal?.throwIfAborted();
    signal?.addEventListener('abort', abort);
    try {
      const shown = [];
      for (const picture of pictures) {
        const known = picture instanceof Picture;
        if (!known) decoded.push(await decode(library, picture));
        shown.push(known ? picture.handle : decoded.at(-1).handle);
      }
      signal?.throwIfAborted();
      const lists = { pictures: shown, picture_count: shown.length, stop_texts, stop_text_count: stop_texts.length };
      this.#check(library.v2e_session_ask(this.handle, struct('v2e_question', { ...options, ...lists, text }), handle));
      yield* this.#events(answer, handle[0], signal, onProgress);
    } finally {
      signal?.removeEventListener('abort', abort);
      if (handle[0] !== null) {
        answer.statistics = struct('v2e_statistics');
        library.v2e_answer_statistics(handle[0], answer.statistics);
        await promisify(library.v2e_answer_close.async)(handle[0]);
      }
      for (const picture of decoded) await picture.close();
    }
  }

  async *#events(answer, handle, signal, onProgress) {
    const { v2e_answer_next } = this.library;
    const next = promisify(v2e_answer_next.async);
    for (;;) {
      const event = struct('v2e_event');
      const status = await next(handle, WAIT_MS, event);
      // That thread has the sentence. A failure is given again by every further call, so by one on this thread, too.
      if (status !== Status.OK) this.#check(v2e_answer_next(handle, 0, event));
      if (event.kind === Event.TEXT) yield progress(event).text;
      else if (event.kind === Event.END) {
        answer.stop = STOPS[event.reason];
        if (answer.stop === 'cancelled') signal?.throwIfAborted();
        return;
      } else if (event.kind !== Event.NONE) onProgress?.(progress(event));
    }
  }

  #check(status) {
    if (status !== Status.OK) throw new Valley2Error(this.library.v2e_last_error(), status);
  }
}

export class Answer {
  stop = null;
  statistics = null;
  #pieces;

  constructor(ask) {
    this.#pieces = ask(this);
  }

  [Symbol.asyncIterator]() {
    return this.#pieces;
  }

  async text() {
    let whole = '';
    for await (const piece of this) whole += piece;
    return whole;
  }
}

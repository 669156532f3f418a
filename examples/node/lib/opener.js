// A thread for the calls that take their time: they open a model, decode a picture, begin a session. They run on a
// worker of Node's, and not as asynchronous calls of koffi, because v2e_last_error() speaks of the thread that asks: here
// a call and the sentence about its failure are on the same one.
import koffi from 'koffi';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { load, progress } from './declarations.js';

export class Opener {
  #worker;
  #waiting = new Map();
  #count = 0;

  constructor(library) {
    this.#worker = new Worker(new URL(import.meta.url), { workerData: { library } });
    this.#worker.unref(); // it lives as long as the program
    this.#worker.on('message', ({ id, event, ...done }) => {
      const call = this.#waiting.get(id);
      if (event) return call.onProgress(event);
      this.#waiting.delete(id);
      if (this.#waiting.size === 0) this.#worker.unref();
      call.resolve(done);
    });
    this.#worker.on('error', (error) => {
      for (const call of this.#waiting.values()) call.reject(error);
      this.#waiting.clear();
    });
  }

  /** Calls a function whose last argument is where it puts a handle; resolves to {status, sentence, handle}. */
  open(name, args, onProgress) {
    return new Promise((resolve, reject) => {
      this.#worker.ref();
      this.#waiting.set(++this.#count, { resolve, reject, onProgress });
      this.#worker.postMessage({ id: this.#count, name, args, heard: Boolean(onProgress) });
    });
  }
}

if (!isMainThread && parentPort && workerData && 'library' in workerData) {
  const library = load(workerData.library);
  parentPort.on('message', ({ id, name, args, heard }) => {
    const handle = [null];
    const callback = (event) => {
      parentPort.postMessage({ id, event: progress(koffi.decode(event, 'v2e_event')) });
      return 0;
    };
    if (heard) args[1].callback = callback; // the options of v2e_model_open
    const status = library[name](...args, handle);
    parentPort.postMessage({ id, status, sentence: status ? library.v2e_last_error() : '', handle: handle[0] });
  });
}

// Needs VALLEY2_LIBRARY, the path of the built library. The bundle is valley2-nano, which lies beside the Python package.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Model, Picture, Valley2Error } from 'valley2';

const path = (name) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));
const BUNDLE = process.env.VALLEY2_BUNDLE ?? path('valley2_edge/builtin/valley2-nano-int4');
const card = await readFile(path('examples/pictures/card.png'));
const PRICE = 'What is the price?';

let model;
let session;
before(async () => {
  model = await Model.open(BUNDLE, { verified_files: '' });
});
after(() => model.close());

async function withSession(run) {
  session = await model.session();
  try {
    await run(session);
  } finally {
    await session.close();
  }
}

const failure = (code, words) => (error) => error instanceof Valley2Error && error.code === code && words.test(error.message);

test('an answer comes in pieces, with its progress before it', () => withSession(async (session) => {
  const stages = new Set();
  const pieces = [];
  const answer = session.ask(PRICE, { pictures: [card], onProgress: ({ stage }) => stages.add(stage) });
  for await (const piece of answer) pieces.push(piece);
  assert.equal(pieces.join(''), '$36.99');
  assert.ok(pieces.length > 1);
  for (const stage of ['tile', 'layer', 'prefill']) assert.ok(stages.has(stage), stage);
  assert.equal(answer.stop, 'token');
  assert.equal(answer.statistics.pictures, 1);
  assert.ok(answer.statistics.new_tokens > 0);
}));

test('opening a model tells its progress', async () => {
  const stages = new Set();
  const other = await Model.open(BUNDLE, { verified_files: '', onProgress: ({ stage }) => stages.add(stage) });
  await other.close();
  assert.ok(stages.has('load') || stages.has('check'));
});

test('the event loop goes on while a model is opened and a question is answered', async () => {
  let ticks = 0;
  const timer = setInterval(() => ++ticks, 1);
  const other = await Model.open(BUNDLE, { check: 2, verified_files: '' });
  const opened = ticks;
  const conversation = await other.session();
  await conversation.ask(PRICE, { pictures: [card] }).text();
  clearInterval(timer);
  await conversation.close();
  await other.close();
  assert.ok(opened > 0 && ticks > opened);
});

test('a decoded picture serves several questions and sessions at once', async () => {
  const picture = await Picture.decode(card);
  const sessions = await Promise.all([model.session(), model.session()]);
  const answers = await Promise.all(sessions.map((one) => one.ask(PRICE, { pictures: [picture] }).text()));
  assert.deepEqual(answers, ['$36.99', '$36.99']);
  await picture.close();
  await Promise.all(sessions.map((one) => one.close()));
});

test('a signal stops the answer and leaves the session good', () => withSession(async (session) => {
  const stop = new AbortController();
  // Not more than a token is computed before it is read, so that the answer cannot be over when it is stopped.
  const stopped = session.ask(PRICE, { pictures: [card], signal: stop.signal, most_ahead: 1 });
  const read = [];
  await assert.rejects(async () => {
    for await (const piece of stopped) {
      read.push(piece);
      stop.abort();
    }
  }, { name: 'AbortError' });
  assert.equal(stopped.stop, 'cancelled');
  assert.ok(read.length > 0 && read.join('').length < '$36.99'.length);
  assert.equal(await session.ask(PRICE, { pictures: [card] }).text(), '$36.99');
}));

test('a signal that was given before stops a question and an opening', async () => {
  await assert.rejects(Model.open(BUNDLE, { signal: AbortSignal.abort() }), { name: 'AbortError' });
  await withSession((session) => assert.rejects(session.ask(PRICE, { signal: AbortSignal.abort() }).text(), { name: 'AbortError' }));
});

test('leaving the loop ends the answer', () => withSession(async (session) => {
  const answer = session.ask(PRICE, { pictures: [card] });
  for await (const piece of answer) {
    assert.ok(piece);
    break;
  }
  assert.notEqual(answer.statistics, null);
  assert.equal(await session.ask(PRICE, { pictures: [card] }).text(), '$36.99');
}));

test('options reach the library by their names in the header', () => withSession(async (session) => {
  const answer = session.ask(PRICE, { pictures: [card], max_new_tokens: 1 });
  await answer.text();
  assert.equal(answer.stop, 'length');
}));

test('failures have the sentence of the library', async () => {
  await assert.rejects(Model.open('no/such/bundle'), failure('bundle', /no\/such\/bundle/));
  await assert.rejects(Picture.decode(card.subarray(0, 200)), failure('input', /picture/i));
  await assert.rejects(Picture.decode(new Uint8Array([1, 2, 3, 4])), failure('unread', /picture/i));
  await withSession(async (session) => {
    await assert.rejects(session.ask('').text(), failure('input', /question/i));
    await assert.rejects(session.ask(PRICE, { max_tokens: 1 }).text(), /no field max_tokens/);
  });
  await assert.rejects(session.ask(PRICE).text(), failure('input', /Session is closed/));
});

test('a failure while it is computed has its sentence, too', async () => {
  const small = await model.session({ context_length: 64 });
  await assert.rejects(small.ask(PRICE, { pictures: [card] }).text(), failure('budget', /context/));
  await small.close();
});

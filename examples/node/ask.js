// Asks a bundle about a picture: node ask.js BUNDLE picture.jpg "What is on the label?"
import { readFile } from 'node:fs/promises';
import { Model } from 'valley2';

async function main(bundle, picture, question) {
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort()); // Ctrl-C stops the work; once more, and it ends the program
  const onProgress = ({ stage, done, total }) => process.stderr.write(`\r${stage} ${done} of ${total}   `);

  const model = await Model.open(bundle, { signal: stop.signal, onProgress });
  const session = await model.session();
  try {
    const pictures = [await readFile(picture)];
    for await (const piece of session.ask(question, { pictures, signal: stop.signal, onProgress })) {
      process.stdout.write(piece);
    }
    process.stdout.write('\n');
  } finally {
    await session.close();
    await model.close();
  }
}

main(...process.argv.slice(2)).catch((error) => {
  process.stderr.write(`\n${error.name}: ${error.message}\n`);
  process.exitCode = 1;
});

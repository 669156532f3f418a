// Compiled by `npm run types`, never run: what a program in TypeScript may write.
import { Model, Picture, Valley2Error, type Progress } from 'valley2';

export async function main(bundle: string, bytes: Uint8Array, signal: AbortSignal): Promise<string> {
  const onProgress = ({ stage, done, total }: Progress): void => void `${stage} ${done / total}`;
  const model = await Model.open(bundle, { memory: 4e9, signal, onProgress });
  const session = await model.session({ system: 'Answer in one sentence.' });
  const picture: Picture = await Picture.decode(bytes);
  let whole = '';
  try {
    const answer = session.ask('What is it?', { pictures: [picture, bytes], signal, onProgress, stop_texts: ['.'] });
    for await (const piece of answer) whole += piece;
    whole += answer.stop === 'length' ? '…' : '';
  } catch (error) {
    if (!(error instanceof Valley2Error) || error.code !== 'budget') throw error;
  }
  // @ts-expect-error: a question is a text
  session.ask(1);
  await Promise.all([picture.close(), session.close(), model.close()]);
  return whole;
}

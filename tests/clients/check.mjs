// What every event must pass: the strict check of npm's cloudevents, and our JSON Schema by ajv.
import { readFileSync } from "node:fs";

import Ajv2020 from "ajv/dist/2020.js";

export function checker(schema) {
  const validate = new Ajv2020.default({ strict: false, allErrors: true }).compile(
    JSON.parse(readFileSync(schema, "utf-8")),
  );
  return (topic, event) => {
    event.validate();
    if (/^fl.progress/.test(topic) && !validate(JSON.parse(JSON.stringify(event)))) {
      throw new Error(`${event.type}: ${JSON.stringify(validate.errors)}`);
    }
    return event;
  };
}

export function print(how, topic, event) {
  process.stdout.write(`${JSON.stringify({ how, topic, event })}\n`);
}

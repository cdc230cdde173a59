// Submits a job and reads all of its events with npm's mqtt, live and retained: PORT VERSION JOB SCHEMA
import { CloudEvent, MQTT } from "cloudevents";
import mqtt from "mqtt";

import { checker, print } from "./check.mjs";

const [port, version, job, schema] = process.argv.slice(2);
const check = checker(schema);
const url = `mqtt://127.0.0.1:${port}`;
const protocolVersion = Number(version);

// MQTT 3.1.1 has no content type, so there the payload alone must do.
function read(topic, payload, { properties = {} }) {
  if (protocolVersion === 4) return check(topic, new CloudEvent(JSON.parse(payload)));
  const message = {
    PUBLISH: { "Content Type": properties.contentType },
    headers: properties.userProperties ?? {},
    body: payload.toString(),
  };
  if (!MQTT.isEvent(message)) throw new Error(`${topic}: no content type of an event: ${payload}`);
  return check(topic, MQTT.toEvent(message, true));
}

// Hands each event to `use`, until that returns true.
function follow(client, use) {
  return new Promise((resolve) => {
    client.on("message", (topic, payload, packet) => {
      if (topic === "answers") print("answer", topic, JSON.parse(payload));
      else if (payload.length && use(topic, read(topic, payload, packet))) resolve();
    });
  });
}

const live = await mqtt.connectAsync(url, { protocolVersion });
const ids = new Set();
const families = ["fl/jobs/#", "fl/tasks/#", "fl/invocations/#", "fl/progress/#"];
const over = follow(live, (topic, event) => {
  print("live", topic, event);
  if (topic.startsWith("fl/progress/")) ids.add(event.id);
  return event.id === "last";
});
await live.subscribeAsync([...families, "answers"], { qos: 1 });
const event = MQTT.structured(new CloudEvent({ type: "org.example.job", source: "/mqtt.js", data: JSON.parse(job) }));
const properties = { responseTopic: "answers", contentType: event.PUBLISH["Content Type"] };
const options = protocolVersion === 5 ? { qos: 1, properties } : { qos: 1 };
await live.publishAsync("fl/jobs/submit", JSON.stringify(event.body), options);
await over;
await live.endAsync();

const late = await mqtt.connectAsync(url, { protocolVersion });
const readAgain = follow(late, (topic, event) => {
  print("stored", topic, event);
  ids.delete(event.id);
  return ids.size === 0;
});
await late.subscribeAsync("fl/progress/#", { qos: 1 });
await readAgain;
await late.endAsync();

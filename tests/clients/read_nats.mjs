// Submits a job and reads all of its events with nats.js, live and from the stream: PORT USER PASSWORD JOB SCHEMA
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { CloudEvent, HTTP } from "cloudevents";

import { checker, print } from "./check.mjs";

const [port, user, pass, job, schema] = process.argv.slice(2);
const check = checker(schema);
const headers = { "content-type": "application/cloudevents+json; charset=utf-8" };
const read = (message) => check(message.subject, HTTP.toEvent({ headers, body: message.string() }));

const nc = await connect({ servers: `127.0.0.1:${port}`, user, pass });
const live = ["jobs", "tasks", "invocations", "progress"].map((family) => nc.subscribe(`fl.${family}.>`));
const seen = live.map(async (subscription) => {
  for await (const message of subscription) {
    const event = read(message);
    print("live", message.subject, event);
    if (event.id === "last") live.forEach((each) => each.unsubscribe());
  }
});
const request = new CloudEvent({ type: "org.example.job", source: "/nats.js", data: JSON.parse(job) });
print("answer", "", (await nc.request("fl.jobs.submit", HTTP.structured(request).body, { timeout: 60000 })).json());
await Promise.all(seen);

const consumer = await jetstream(nc).consumers.get("FEDKEEPER_PROGRESS", { filter_subjects: ["fl.progress.>"] });
for await (const message of await consumer.consume()) {
  const event = read(message);
  print("stored", message.subject, event);
  if (event.id === "last") break;
}
await nc.close();

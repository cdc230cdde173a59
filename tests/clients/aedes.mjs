// Runs the MQTT broker aedes on a free loopback port, and prints the port.
import { createServer } from "node:net";

import { Aedes } from "aedes";

const broker = await Aedes.createBroker();
const server = createServer(broker.handle);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));

// Node: refuse every connection that would leave this machine, as loopback.py does for Python.
const fs = require("node:fs");
const net = require("node:net");

const LOCAL = new Set([undefined, "", "localhost", "127.0.0.1", "::1"]);
const connect = net.Socket.prototype.connect;

net.Socket.prototype.connect = function (...args) {
  const { host, path } = Array.isArray(args[0]) ? args[0][0] : args[0];
  if (path || LOCAL.has(host)) return connect.apply(this, args);
  if (process.env.CNNLAB_REFUSED) fs.appendFileSync(process.env.CNNLAB_REFUSED, `${host}\n`);
  // Programs try again after most of the other codes.
  const error = new Error(`tests run without a network, and this would reach ${host}`);
  return this.destroy(Object.assign(error, { code: "EACCES" }));
};

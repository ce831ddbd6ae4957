// How long to wait before connecting again.

const FIRST_MS = 50;

/**
 * The bound below which a wait is drawn at random. It doubles with every failure in a row. Who lost
 * a connection that stood is not alone: a whole gateway's clients come back at once, and are spread
 * over `spreadMs`.
 */
export function longestWaitMs(failures, { established, spreadMs, maxMs }) {
  const bound = FIRST_MS * 2 ** Math.min(failures, 20);
  return Math.min(maxMs, established ? Math.max(bound, spreadMs) : bound);
}

// Package sim is the environment in which a whole cluster lives in one process
// under virtual time: nodes, links, disks, clients, faults and the harness's
// own tasks share one event queue (a World) and one seed. The same seed gives
// the same events in the same order, whatever GOMAXPROCS is.
//
// The package knows no system under test. A Factory gives each node's program
// (a Process), which acts on its surroundings through a Host only; a Volume is
// what is left of a node when its process is gone.
//
// # Tasks
//
// The harness's tasks are coroutines: exactly one runs at a time, and virtual
// time stands still while it runs. A task gives way in Sleep, Group.Wait, Call,
// Post and in the calls of Processes that wait. It must not wait in any other
// way (a channel, a lock held across Sleep): nothing could ever wake it.
//
// # Links
//
// A stream from node A to node B is a connection that A dials and keeps
// dialling. Messages are typed values, delivered in order, each after a base
// latency and a seeded jitter. What a cut does is what TCP shows of it:
//
//   - Data that meets a cut is held by its sender. If the direction is open
//     again when the sender retransmits (after 200 ms, then at intervals that
//     double up to 400 ms, and one last time at the user timeout), all held data
//     is delivered in order. Otherwise the sender's end is closed at the user
//     timeout (counted from the first data held): the sender's process gets
//     LinkDown, the held data is lost, the link is dialled anew.
//   - Data that arrives while the way back is cut is delivered, but not
//     acknowledged: the sender's end is closed at the user timeout (counted from
//     that data) unless the way back opens before.
//   - The other end does not hear of such an end. It learns of it when it sends
//     (a reset comes back, where the ways are open) or when the next connection
//     of the same stream is accepted.
//   - An idle connection survives a cut of any length.
//   - A killed or exited process's kernel still delivers what was sent, then
//     says goodbye (LinkDown at the other end); both are held by a cut and given
//     up at the user timeout. Data for a dead process is answered by a reset.
//   - A paused process's kernel goes on: it completes handshakes, acknowledges
//     data and buffers it (without bound); all of it is handled in order on
//     resume.
//   - A node without power is silent: data for it is held, as if cut, until
//     it is started again (then a reset answers) or the user timeout ends.
//   - A dial needs both directions. It is refused at once by a node whose
//     process is down, and given up after the dial timeout where nothing answers;
//     the next attempt follows after a back-off.
//
// What is done to packets shows as time, too: a lost packet is sent again, a damaged
// one is lost, a copy is dropped, and what overtakes others waits for them. Where
// the rate is limited each message counts as a packet of 1,500 bytes. A silenced
// node (half-open connections) is as if cut, but that dials get their first answer.
//
// Clients' connections follow the same rules, with nemesis.Clients as endpoint.
//
// # Disks
//
// A storage operation is issued to a lane. Lanes are FIFO and independent of
// one another. The operation's closure runs at its completion time, against the
// node's volume. Operations issued before a kill may still land after it: of
// each lane a seeded prefix does, at the time at which it would have completed;
// a restart waits for that. Operations issued before a pause land and are
// reported on resume. Power loss drops all that has not landed, then lets the
// volume lose what was not synced.
package sim

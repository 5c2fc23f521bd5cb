// Package sidecar is the agent that owns a node's namespaces, and the client
// with which the harness commands it.
//
// One sidecar runs per node, in a container of its own that owns the network
// namespace; the node's container joins it. The sidecar drops what it is told
// to drop, with nftables rules in a table named after the run, and it keeps a
// stream of numbered datagrams (nonces) to every other endpoint, which proves
// for each direction whether packets pass. It speaks length-prefixed JSON over
// its standard streams. When its input ends, because the harness let go or
// died, it takes its rules away and exits. Where a node can be told a time, the
// sidecar keeps the file that the node's wall clock goes by (Skew), and asks the
// node for its clock.
//
// Where a cut is made: one direction is dropped in one place only, so that a
// one-way cut stays one-way. A cut between two nodes is dropped in the input
// of the receiving node. A cut from a node to the clients, who have no
// namespace of ours, is dropped in the node's output.
//
// Where a fault needs it, a second sidecar per node, which is privileged, serves
// the node's data from a disk of its own (DiskOp).
package sidecar

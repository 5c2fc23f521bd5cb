// Package pull is replication by pulling, as the schemes share it: a follower
// fetches from the end of its log on, and its fetch is its acknowledgement; the
// leader finds where logs part by epochs (KIP-101, KIP-279) and parks a fetch
// that has nothing to bring. Who leads, and what an acknowledgement counts for, is
// the scheme's.
package pull

import "time"

// Fetch is a follower's request for records, and its acknowledgement: all
// before Offset is in its log, all before Stable as durable as fsync promises.
type Fetch struct {
	ID          uint64
	Epoch       int32 // leader epoch that the follower believes in
	BrokerEpoch int64
	Offset      int64
	Stable      int64
	LastEpoch   int32 // epoch of the last record before Offset, -1: none
	High        int64 // high watermark that the follower knows
	Max         int   // bytes
	Wait        time.Duration
}

// FetchAnswer answers a Fetch.
type FetchAnswer struct {
	ID    uint64
	Epoch int32 // the leader's epoch
	Code  int16 // Kafka error code
	High  int64
	// Diverged: the logs part before Offset. KnownEpoch is the leader's largest
	// epoch that is not above the follower's last, KnownEnd its end.
	Diverged   bool
	KnownEpoch int32
	KnownEnd   int64
	Data       []byte // raw batches from Offset on
}

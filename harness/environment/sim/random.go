package sim

import (
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// stream returns the random stream of that name. Streams of different names
// are independent: a new consumer does not shift the others.
func stream(seed uint64, name string) *rand.Rand {
	sum := streamKey(seed, name)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])))
}

func streamKey(seed uint64, name string) [32]byte {
	return sha256.Sum256(append(binary.LittleEndian.AppendUint64(nil, seed), name...))
}

// Stream returns the World's random stream of that name, from its beginning.
// Use one name per consumer.
func (w *World) Stream(name string) *rand.Rand { return stream(w.opts.Seed, "user/"+name) }

// ErrRandReaderTaken is returned by InstallRandReader while another World of
// this process holds crypto/rand.Reader.
var ErrRandReaderTaken = errors.New("crypto/rand.Reader is already replaced by another simulation: run one simulation per process at a time (worker processes run several)")

var readerTaken atomic.Bool

// seededReader is a deterministic stream of bytes. The lock is for readers
// outside the simulation, which spoil determinism but must not corrupt it.
type seededReader struct {
	mu  sync.Mutex
	src *rand.ChaCha8
}

func (r *seededReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.src.Read(p)
}

// RandReader returns a deterministic stream of bytes, from its beginning.
func (w *World) RandReader() io.Reader {
	return &seededReader{src: rand.NewChaCha8(streamKey(w.opts.Seed, "crypto/rand"))}
}

// InstallRandReader makes crypto/rand.Reader deterministic until restore is
// called: go.etcd.io/raft draws its election timeouts from it. The variable
// belongs to the whole process, so a second World gets ErrRandReaderTaken, and
// nothing else in the process should read it meanwhile.
func (w *World) InstallRandReader() (restore func(), err error) {
	if !readerTaken.CompareAndSwap(false, true) {
		return nil, ErrRandReaderTaken
	}
	former := cryptorand.Reader
	cryptorand.Reader = w.RandReader()
	return sync.OnceFunc(func() {
		cryptorand.Reader = former
		readerTaken.Store(false)
	}), nil
}

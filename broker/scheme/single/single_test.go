package single_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/single"
)

// host keeps a log of which a test says what is stable.
type host struct {
	scheme.Host // what single does not use
	now         time.Duration
	index       *logindex.Index
	stable      int64
	refused     bool
	answers     map[uint64]scheme.Produced
	epochs      []int32 // stamped on batches
	bases       []int64
	events      []string
}

func (h *host) Self() broker.NodeID                  { return 1 }
func (h *host) Name(id broker.NodeID) string         { return id.String() }
func (h *host) Now() broker.Time                     { return broker.Time{Mono: h.now} }
func (h *host) Index() *logindex.Index               { return h.index }
func (h *host) Stable() int64                        { return h.stable }
func (h *host) Refused() bool                        { return h.refused }
func (h *host) Advanced()                            {}
func (h *host) Emit(ev broker.Event)                 { h.events = append(h.events, ev.Kind) }
func (h *host) Produced(t uint64, p scheme.Produced) { h.answers[t] = p }

func (h *host) Append(batches [][]byte, infos []batch.Info) {
	for i, b := range batches {
		h.index.Append(infos[i])
		h.bases = append(h.bases, int64(binary.BigEndian.Uint64(b)))
		h.epochs = append(h.epochs, int32(binary.BigEndian.Uint32(b[12:])))
	}
}

func newMachine() (*host, scheme.Machine) {
	h := &host{index: logindex.New(0, nil), answers: map[uint64]scheme.Produced{}}
	return h, single.New(h, scheme.DefaultOptions(), 0)
}

func owner(epoch int32) scheme.Assignment {
	return scheme.Assignment{Replicas: []broker.NodeID{1}, ISR: []broker.NodeID{1}, Leader: 1, Epoch: epoch, PartEpoch: epoch, MinISR: 1}
}

func write(m scheme.Machine, token uint64, acks int16) {
	m.Produce(scheme.Produce{Token: token, Batch: make([]byte, batch.HeaderSize), Info: batch.Info{ProducerID: -1, Records: 1}, Acks: acks, Timeout: time.Second})
}

func TestAcknowledgesWhatIsStable(t *testing.T) {
	h, m := newMachine()
	m.Assigned(owner(3))
	require.Equal(t, []string{"leader"}, h.events)
	write(m, 1, 1)
	write(m, 2, -1)
	write(m, 3, 0)
	require.Empty(t, h.answers)
	limit, code := m.CheckRead(-1)
	require.Zero(t, code)
	require.Zero(t, limit, "what is not stable is not shown")
	h.stable = 2
	m.Stored()
	require.Equal(t, map[uint64]scheme.Produced{1: {Base: 0}, 2: {Base: 1}}, h.answers)
	limit, _ = m.CheckRead(3)
	require.Equal(t, int64(2), limit)
	require.Equal(t, int64(2), m.High())
	require.Equal(t, []int64{0, 1, 2}, h.bases)
	require.Equal(t, []int32{3, 3, 3}, h.epochs)
	require.True(t, m.View().Writable)
}

func TestDeadline(t *testing.T) {
	h, m := newMachine()
	m.Assigned(owner(1))
	write(m, 1, 1)
	require.Equal(t, time.Second, m.NextWake())
	h.now = time.Second
	m.Wake()
	require.Equal(t, kerr.RequestTimedOut.Code, h.answers[1].Code)
	require.Equal(t, scheme.Never, m.NextWake())
	h.stable = 1
	m.Stored()
	require.Len(t, h.answers, 1)
}

func TestNotTheOwner(t *testing.T) {
	for _, c := range []struct {
		name    string
		refused bool
		leader  broker.NodeID
	}{{"another", false, 2}, {"nobody", false, broker.None}, {"damaged", true, 1}} {
		t.Run(c.name, func(t *testing.T) {
			h, m := newMachine()
			h.refused = c.refused
			a := owner(1)
			a.Leader = c.leader
			m.Assigned(a)
			write(m, 1, 1)
			write(m, 2, 0)
			require.Equal(t, kerr.NotLeaderForPartition.Code, h.answers[1].Code)
			require.NotContains(t, h.answers, uint64(2))
			_, code := m.CheckRead(-1)
			require.Equal(t, kerr.NotLeaderForPartition.Code, code)
			require.Empty(t, h.bases)
			require.False(t, m.View().Writable)
		})
	}
}

// TestLosesOwnership: what is in the log and was not answered may survive.
func TestLosesOwnership(t *testing.T) {
	h, m := newMachine()
	m.Assigned(owner(1))
	write(m, 1, 1)
	a := owner(2)
	a.Leader = broker.None
	m.Assigned(a)
	require.Equal(t, kerr.RequestTimedOut.Code, h.answers[1].Code)
	m.Assigned(owner(1)) // old news
	_, code := m.CheckRead(-1)
	require.NotZero(t, code)
	m.Assigned(owner(3))
	_, code = m.CheckRead(2)
	require.Equal(t, kerr.FencedLeaderEpoch.Code, code)
	_, code = m.CheckRead(4)
	require.Equal(t, kerr.UnknownLeaderEpoch.Code, code)
	write(m, 2, 1)
	m.Close()
	require.Equal(t, kerr.RequestTimedOut.Code, h.answers[2].Code)
}

// TestDuplicate: sent again before it is stable, a batch is answered when it is.
func TestDuplicate(t *testing.T) {
	h, m := newMachine()
	m.Assigned(owner(1))
	for token := uint64(1); token <= 2; token++ {
		m.Produce(scheme.Produce{Token: token, Batch: make([]byte, batch.HeaderSize), Info: batch.Info{ProducerID: 4, Records: 1}, Acks: -1, Timeout: time.Second})
	}
	require.Len(t, h.bases, 1)
	require.Empty(t, h.answers)
	h.stable = 1
	m.Stored()
	require.Equal(t, map[uint64]scheme.Produced{1: {}, 2: {}}, h.answers)
}

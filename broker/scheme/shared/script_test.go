package shared_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/shared"
	"github.com/faultline-mq/faultline/broker/storage"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// TestScripts runs the golden scripts of testdata: one partition, a few nodes, and the
// real storage on one device in memory. A reader learns the protocol from them.
//
//	new [nodes=N] [poll=D] [keepalive=D] [lease] [margin=D] [fencing=token]
//	                     N nodes; the defaults are 3 nodes, 10s, 0, a file lock, 0 and none
//	assign NODE…         nodes learn of the partition
//	send NODE VALUE…     one batch of one record per VALUE
//	hold NODE…           what the nodes ask of the device is not done until release
//	step NODE            the oldest of it is done
//	release NODE…        all of it is done, in order
//	pause NODE…          the processes stand still; what they asked for is done, and they hear of it at resume
//	resume NODE…
//	crash NODE…          the processes die; what they asked for is not done any more
//	start NODE…          new incarnations
//	time D               time passes; due timers fire
//	clock NODE D         sets a node's wall clock by so much
//	lose-lock            somebody removes the lock file
//	damage OFFSET        one bit of the log's first file is inverted
//	read NODE            what a consumer may read
//	show [NODE…]         logs as each node knows them: offset:value; | durable up to here; ^ confirmed
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := &world{t: t}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return w.run(t, d) })
	})
}

const lane = broker.Lane("t-0.1")

// world is one device with its nodes.
type world struct {
	t      require.TestingT
	now    time.Duration
	device *vfs.Mem
	opts   shared.Options
	nodes  []*node
	token  uint64
	out    strings.Builder

	produced func(n *node, token uint64, p scheme.Produced) // of the random test
}

// node hosts one machine.
type node struct {
	w      *world
	id     broker.NodeID
	inc    int
	up     bool
	paused bool
	held   bool
	clock  time.Duration // how wrong it is
	store  *storage.Store
	m      *shared.Machine
	index  *logindex.Index
	stable int64
	open   bool
	refuse bool
	ops    []func() // asked of the device, not done
	inbox  []func() // heard while paused
	values map[uint64]string
}

var _ scheme.SharedHost = (*node)(nil)

func newWorld(t require.TestingT, nodes int, o shared.Options) *world {
	w := &world{t: t, device: vfs.NewMem(), opts: o}
	for i := range nodes {
		w.nodes = append(w.nodes, &node{w: w, id: broker.NodeID(i + 1)})
		w.boot(w.nodes[i])
	}
	return w
}

func (w *world) boot(n *node) {
	n.inc++
	inc := n.inc
	s, _, err := storage.Open(vfs.NewMem(), vfs.NewMem(), 1<<16, mutant.Set{})
	require.NoError(w.t, err)
	s.Share(w.device.Process(func() bool { return n.inc != inc || !n.up }))
	n.store, n.up, n.paused, n.ops, n.inbox, n.values = s, true, false, nil, nil, map[uint64]string{}
	n.empty()
	n.m = shared.New(n, w.opts, mutant.Set{})
}

func (n *node) empty() {
	n.index, n.stable, n.open, n.refuse = logindex.New(0, nil), 0, false, false
}

func (w *world) assign(n *node) {
	a := scheme.Assignment{Leader: 1, Epoch: 1, PartEpoch: 1}
	for _, o := range w.nodes {
		a.Replicas = append(a.Replicas, o.id)
	}
	n.m.Assigned(a)
	w.settle()
}

func (w *world) printf(f string, args ...any) { fmt.Fprintf(&w.out, f, args...) }

// hear steps the machine, now or when it is resumed.
func (n *node) hear(f func()) {
	if n.paused {
		n.inbox = append(n.inbox, f)
		return
	}
	f()
}

// settle does what was asked of the device until nothing is left.
func (w *world) settle() {
	for again := true; again; {
		again = false
		for _, n := range w.nodes {
			for n.up && !n.held && len(n.ops) > 0 {
				n.op()
				again = true
			}
		}
	}
}

func (n *node) op() {
	op := n.ops[0]
	n.ops = n.ops[1:]
	op()
}

func (n *node) ask(op func()) { n.ops = append(n.ops, op) }

func (n *node) deviceOp(e broker.Device) {
	e.Lane = lane
	n.ask(func() {
		d := n.store.Device(e)
		n.w.printf("%s\n", outcome(n.id, e, d))
		n.hear(func() {
			if d.Do == broker.OpenLog && d.Err == nil && d.Held {
				n.index = logindex.New(d.Log.Start, d.Log.Batches)
				n.stable, n.open, n.refuse = n.index.End(), true, d.Log.Corrupt != ""
			}
			n.m.Message(n.id, &d)
		})
	})
}

func outcome(id broker.NodeID, e broker.Device, d broker.DeviceDone) string {
	if d.Err != nil {
		return fmt.Sprintf("%d: error of the device: %v", id, d.Err)
	}
	switch {
	case e.Do == broker.TryLock && d.Held:
		return fmt.Sprintf("%d tries the lock: held", id)
	case e.Do == broker.TryLock && d.Holder == broker.None:
		return fmt.Sprintf("%d tries the lock: busy", id)
	case e.Do == broker.TryLock:
		return fmt.Sprintf("%d tries the lock: busy, %d took it last", id, d.Holder)
	case e.Do == broker.CheckLock && d.Held:
		return fmt.Sprintf("%d looks at the lock: its own", id)
	case e.Do == broker.CheckLock:
		return fmt.Sprintf("%d looks at the lock: lost", id)
	case e.Do == broker.Publish:
		return fmt.Sprintf("%d publishes token %d", id, d.Token)
	case e.Do == broker.CheckToken:
		return fmt.Sprintf("%d reads the token: %d", id, d.Token)
	case e.Do == broker.OpenLog && !d.Held:
		return fmt.Sprintf("%d opens the log: its token is not the highest", id)
	case e.Do == broker.OpenLog && d.Log.Corrupt != "":
		return fmt.Sprintf("%d opens the log: corrupt from offset %d on", id, end(d.Log))
	case e.Do == broker.OpenLog:
		return fmt.Sprintf("%d opens the log: it ends at %d", id, end(d.Log))
	}
	return fmt.Sprintf("%d closes the log and gives up the lock", id)
}

func end(l *broker.LogState) int64 {
	if k := len(l.Batches); k > 0 {
		return l.Batches[k-1].Last + 1
	}
	return l.Start
}

func (n *node) Self() broker.NodeID    { return n.id }
func (n *node) Owner() string          { return fmt.Sprintf("n%d.%d", n.id, n.inc) }
func (n *node) Index() *logindex.Index { return n.index }
func (n *node) Stable() int64          { return n.stable }
func (n *node) Refused() bool          { return n.refuse }
func (n *node) BrokerEpoch() int64     { return 1 }
func (n *node) Advanced()              {}

func (n *node) Now() broker.Time {
	return broker.Time{Mono: n.w.now, Wall: int64(time.Hour + n.w.now + n.clock)}
}

func (n *node) Name(id broker.NodeID) string                              { return id.String() }
func (n *node) Truncate(int64) int64                                      { panic("not used") }
func (n *node) Send(broker.NodeID, broker.Message, int64, int64, *[]byte) { panic("not used") }
func (n *node) ProposeISR(int32, int32, []scheme.Member)                  { panic("not used") }
func (n *node) Eligible(broker.NodeID, int64) bool                        { panic("not used") }
func (n *node) Persist([]byte)                                            { panic("not used") }
func (n *node) Persisted() []byte                                         { return nil }
func (n *node) Persisting() bool                                          { return false }
func (n *node) Report(int32, []broker.NodeID)                             { panic("not used") }
func (n *node) Keep(scheme.Record)                                        { panic("not used") }
func (n *node) TryLock(l broker.Lock)                                     { n.deviceOp(broker.Device{Do: broker.TryLock, Lock: l}) }

func (n *node) CheckLock(l broker.Lock) { n.deviceOp(broker.Device{Do: broker.CheckLock, Lock: l}) }

func (n *node) Publish(l broker.Lock) { n.deviceOp(broker.Device{Do: broker.Publish, Lock: l}) }

func (n *node) CheckToken() { n.deviceOp(broker.Device{Do: broker.CheckToken}) }

func (n *node) OpenLog(fenced bool, token uint64) {
	n.deviceOp(broker.Device{Do: broker.OpenLog, Fenced: fenced, Token: token})
}

func (n *node) CloseLog(l broker.Lock) {
	n.empty()
	n.deviceOp(broker.Device{Do: broker.CloseLog, Lock: l})
}

func (n *node) Append(batches [][]byte, infos []batch.Info) {
	for _, i := range infos {
		n.index.Append(i)
	}
	end := n.index.End()
	n.ask(func() {
		require.NoError(n.w.t, n.store.Append(broker.Append{Lane: lane, Batches: batches}))
		require.NoError(n.w.t, n.store.Sync(lane))
		n.w.printf("%d wrote and synced up to %d\n", n.id, end)
		n.hear(func() {
			if n.open {
				n.stable = end
				n.m.Stored()
			}
		})
	})
}

func (n *node) Produced(token uint64, p scheme.Produced) {
	if n.w.produced != nil {
		n.w.produced(n, token, p)
	}
	if p.Code != 0 {
		n.w.printf("%d answers %s: %s\n", n.id, n.values[token], kerr.TypedErrorForCode(p.Code).Message)
		return
	}
	n.w.printf("%d answers %s: ok at %d\n", n.id, n.values[token], p.Base)
}

func (n *node) Emit(ev broker.Event) {
	s := fmt.Sprintf("%d: %s epoch=%d", n.id, ev.Kind, ev.Epoch)
	if ev.Kind == "leader" {
		s += fmt.Sprintf(", from %d", ev.Offset)
	}
	if ev.Kind == "follower" {
		s += ": " + ev.Detail
	}
	if ev.Kind == "corrupt" {
		s += fmt.Sprintf(" at offset %d", ev.Offset)
	}
	n.w.printf("%s\n", s)
}

// record is a batch of one record; its body is the value itself.
func record(value string) []byte {
	b := append(make([]byte, batch.HeaderSize), value...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// send gives a write to a node and returns its token.
func (w *world) send(n *node, value string) uint64 {
	w.token++
	n.values[w.token] = value
	b := record(value)
	info, err := batch.Parse(b)
	require.NoError(w.t, err)
	token := w.token
	n.hear(func() {
		n.m.Produce(scheme.Produce{Token: token, Batch: b, Info: info, Acks: -1, Timeout: time.Minute})
	})
	return token
}

// log is what a node reads of its log, by offset.
func (n *node) log(upTo int64) ([]string, error) {
	if upTo == 0 {
		return nil, nil
	}
	data, err := n.store.Read(broker.Slice{Lane: lane, To: upTo})
	if err != nil {
		return nil, err
	}
	batches, _, err := batch.Split(data)
	var values []string
	for _, b := range batches {
		values = append(values, string(b[batch.HeaderSize:]))
	}
	return values, err
}

func (w *world) show(n *node) {
	switch {
	case !n.up:
		w.printf("%d down\n", n.id)
		return
	case !n.open:
		w.printf("%d waits\n", n.id)
		return
	}
	values, err := n.log(n.stable)
	if err != nil {
		w.printf("%d: the log is damaged\n", n.id)
		return
	}
	w.printf("%d:", n.id)
	for i := range n.index.End() + 1 {
		if i == n.m.High() {
			w.printf(" ^")
		}
		if i == n.stable {
			w.printf(" |")
		}
		switch {
		case i < int64(len(values)):
			w.printf(" %d:%s", i, values[i])
		case i < n.index.End():
			w.printf(" %d", i)
		}
	}
	w.printf("\n")
}

// pass lets time pass, with the timers in it.
func (w *world) pass(d time.Duration) {
	until := w.now + d
	for {
		var next *node
		at := until + 1
		for _, n := range w.nodes {
			if n.up && !n.paused && n.m.NextWake() < at {
				at, next = n.m.NextWake(), n
			}
		}
		if next == nil || at > until {
			break
		}
		w.now = max(w.now, at)
		next.m.Wake()
		w.settle()
	}
	w.now = until
}

func (w *world) lockFile() string { return path.Join(storage.LogsDir, string(lane), storage.LockFile) }

func (w *world) resume(n *node) {
	n.paused = false
	inbox := n.inbox
	n.inbox = nil
	n.m.Wake()
	for _, f := range inbox {
		f()
	}
	w.settle()
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	w.t = t
	w.out.Reset()
	var ids []*node
	for _, a := range d.CmdArgs {
		if i, err := strconv.Atoi(a.Key); err == nil && len(a.Vals) == 0 && d.Cmd != "damage" {
			ids = append(ids, w.nodes[i-1])
		}
	}
	switch d.Cmd {
	case "new":
		w.create(t, d)
	case "assign":
		for _, n := range ids {
			w.assign(n)
		}
	case "send":
		for _, a := range d.CmdArgs[1:] {
			w.send(ids[0], a.Key)
		}
		w.settle()
	case "hold", "release":
		for _, n := range ids {
			n.held = d.Cmd == "hold"
		}
		w.settle()
	case "step":
		ids[0].op()
	case "pause":
		for _, n := range ids {
			n.paused = true
		}
	case "resume":
		for _, n := range ids {
			w.resume(n)
		}
	case "crash":
		for _, n := range ids {
			n.up = false
		}
	case "start":
		for _, n := range ids {
			w.boot(n)
			w.assign(n)
		}
	case "time":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		require.NoError(t, err)
		w.pass(by)
	case "clock":
		by, err := time.ParseDuration(d.CmdArgs[1].Key)
		require.NoError(t, err)
		ids[0].clock += by
	case "lose-lock":
		require.NoError(t, w.device.Unlink(w.lockFile()))
	case "damage":
		at, err := strconv.ParseInt(d.CmdArgs[0].Key, 10, 64)
		require.NoError(t, err)
		require.NoError(t, w.device.Flip(path.Join(storage.LogsDir, string(lane), "log", "00000000000000000000.log"), at, 0))
	case "read":
		for _, n := range ids {
			if limit, code := n.m.CheckRead(-1); code != 0 {
				w.printf("%d: %s\n", n.id, kerr.TypedErrorForCode(code).Message)
			} else {
				w.printf("%d: below %d\n", n.id, limit)
			}
		}
	case "show":
		for _, n := range w.nodes {
			if len(ids) == 0 || slices.Contains(ids, n) {
				w.show(n)
			}
		}
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	return w.out.String()
}

func (w *world) create(t *testing.T, d *datadriven.TestData) {
	count := 3
	o := shared.Options{Poll: 10 * time.Second}
	d.MaybeScanArgs(t, "nodes", &count)
	for name, to := range map[string]*time.Duration{"poll": &o.Poll, "keepalive": &o.KeepAlive, "margin": &o.Margin} {
		s := ""
		if d.MaybeScanArgs(t, name, &s) {
			v, err := time.ParseDuration(s)
			require.NoError(t, err)
			*to = v
		}
	}
	fencing := ""
	d.MaybeScanArgs(t, "fencing", &fencing)
	o.Fenced, o.Lease = fencing == "token", d.HasArg("lease")
	*w = *newWorld(t, count, o)
	for _, n := range w.nodes {
		n.w = w
	}
}

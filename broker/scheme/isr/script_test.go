package isr

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
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
	"github.com/faultline-mq/faultline/broker/scheme"
)

// TestScripts runs the golden scripts of testdata: one partition on a few
// replicas, an authority that does only what it is told, and a network and disks
// that move only when told. A reader learns the protocol from them.
//
//	new [nodes=N] [min=N] [lag=D]   N replicas of an empty partition; 1 leads, all are in sync
//	send NODE VALUE… [acks=0|1|all] [timeout=D] [pid=N seq=N [pepoch=N]]
//	                                one batch of one record per VALUE, sequence numbers rising
//	store NODE…                     everything written so far is durable there
//	deliver [FROM>TO] [n=N]         the oldest N (1) messages (of that direction) arrive
//	drop [FROM>TO]                  messages on their way are lost
//	run                             deliver and store until all is quiet; shows no message
//	cut A-B…, heal A-B…             links, both directions; what is on its way is lost
//	time D                          time passes; due timers fire
//	elect NODE|none [isr=(…)] [replicas=(…)] [unclean] [tell=(…)]
//	                                the authority decides; all nodes that are up (or only tell) learn it
//	learn NODE…                     nodes learn the authority's present decision
//	answer apply|refuse|lose        the authority's answer to the oldest proposal; lose: applied or not, nobody knows
//	crash NODE, power NODE          the process dies; with power, what is not durable is gone
//	start NODE                      a new incarnation: it registers, and leaves the in-sync set unless alone in it
//	fence NODE, unfence NODE        whether it may join
//	read NODE [epoch=N]             what a consumer may read
//	show [NODE…]                    logs as offset:value@epoch; | durable up to here; ^ high watermark
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		c := &cluster{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return c.run(t, d) })
	})
}

type envelope struct {
	from, to broker.NodeID
	msg      broker.Message
}

type proposal struct {
	n         int
	by        int64 // broker epoch of the proposer
	node      *replica
	partEpoch int32
	epoch     int32
	isr       []scheme.Member
}

// cluster is the world of a script.
type cluster struct {
	now       broker.Time
	opts      scheme.Options
	nodes     []*replica
	wires     []envelope
	down      map[string]bool // "1-2": link cut
	a         scheme.Assignment
	epochs    map[broker.NodeID]int64
	fenced    map[broker.NodeID]bool
	nextEpoch int64
	proposals []proposal
	proposed  int // so far
	token     uint64
	out       strings.Builder
	quiet     bool

	// Of the random test.
	produced    func(token uint64, p scheme.Produced)
	truncations int
}

// replica hosts one machine.
type replica struct {
	c      *cluster
	id     broker.NodeID
	up     bool
	epoch  int64
	m      *Machine
	index  *logindex.Index
	log    [][]byte
	stable int64
	values map[uint64]string // of the writes that wait, by token
	newest int               // proposal
}

var _ scheme.Host = (*replica)(nil)

func (r *replica) Keep(scheme.Record) {}

func (r *replica) Self() broker.NodeID    { return r.id }
func (r *replica) Now() broker.Time       { return r.c.now }
func (r *replica) Index() *logindex.Index { return r.index }
func (r *replica) Stable() int64          { return r.stable }
func (r *replica) Refused() bool          { return false }
func (r *replica) BrokerEpoch() int64     { return r.epoch }
func (r *replica) Advanced()              {}

func (r *replica) Name(id broker.NodeID) string { return id.String() }

func (r *replica) Persisted() []byte             { return nil }
func (r *replica) Persist([]byte)                {}
func (r *replica) Owner() string                 { return "" }
func (r *replica) Persisting() bool              { return false }
func (r *replica) Report(int32, []broker.NodeID) {}

func (r *replica) Append(batches [][]byte, infos []batch.Info) {
	for i := range batches {
		r.index.Append(infos[i])
		r.log = append(r.log, batches[i])
	}
}

func (r *replica) Truncate(to int64) int64 {
	before := r.index.End()
	end := r.index.Truncate(to)
	if end < before {
		r.c.truncations++
	}
	r.log = slices.DeleteFunc(r.log, func(b []byte) bool { return base(b) >= end })
	r.stable = min(r.stable, end)
	return end
}

func (r *replica) Send(to broker.NodeID, msg broker.Message, from, upTo int64, data *[]byte) {
	if upTo > from {
		for _, b := range r.log {
			if base(b) >= from && base(b) < upTo {
				*data = append(*data, b...)
			}
		}
	}
	if r.c.down[link(r.id, to)] {
		return
	}
	e := envelope{r.id, to, msg}
	r.c.wires = append(r.c.wires, e)
	if !r.c.quiet {
		r.c.printf("%v\n", e)
	}
}

func (r *replica) ProposeISR(epoch, partEpoch int32, isr []scheme.Member) {
	r.c.proposed++
	r.newest = r.c.proposed
	r.c.proposals = append(r.c.proposals, proposal{r.newest, r.epoch, r, partEpoch, epoch, isr})
	var ms []string
	for _, m := range isr {
		s := m.ID.String()
		if m.Epoch < 0 {
			s += " unheard of"
		}
		ms = append(ms, s)
	}
	r.c.printf("%d proposes the in-sync set (%s), based on partition epoch %d\n", r.id, strings.Join(ms, ","), partEpoch)
}

func (r *replica) Eligible(id broker.NodeID, brokerEpoch int64) bool {
	return r.c.epochs[id] == brokerEpoch && !r.c.fenced[id]
}

func (r *replica) Produced(token uint64, p scheme.Produced) {
	if r.c.produced != nil {
		r.c.produced(token, p)
		return
	}
	if p.Code != 0 {
		r.c.printf("%d answers %s: %s\n", r.id, r.values[token], code(p.Code))
		return
	}
	r.c.printf("%d answers %s: ok at %d\n", r.id, r.values[token], p.Base)
}

func (r *replica) Emit(ev broker.Event) {
	s := fmt.Sprintf("%d: %s epoch=%d", r.id, ev.Kind, ev.Epoch)
	if ev.Leader != "" {
		s += " leader=" + ev.Leader
	}
	if ev.ISR != nil {
		s += " isr=(" + strings.Join(ev.ISR, ",") + ")"
	}
	if ev.Kind == "truncate" {
		s += fmt.Sprintf(" removed=[%d,%d)", ev.From, ev.To)
	}
	if ev.Detail != "" {
		s += ": " + ev.Detail
	}
	r.c.printf("%s\n", s)
}

func (e envelope) String() string {
	switch m := e.msg.(type) {
	case *Fetch:
		return fmt.Sprintf("%d>%d fetch from %d: stable %d, last epoch %d, in epoch %d", e.from, e.to, m.Offset, m.Stable, m.LastEpoch, m.Epoch)
	case *FetchAnswer:
		s := fmt.Sprintf("%d>%d answer:", e.from, e.to)
		if m.Code != 0 {
			return s + " " + code(m.Code)
		}
		if m.Diverged {
			return s + fmt.Sprintf(" diverged: here epoch %d ends at %d", m.KnownEpoch, m.KnownEnd)
		}
		batches, infos, err := batch.Split(m.Data)
		if err != nil {
			return s + err.Error()
		}
		for i := range batches {
			s += " " + record(batches[i], infos[i])
		}
		return s + fmt.Sprintf(" high %d", m.High)
	}
	return fmt.Sprintf("%T", e.msg)
}

func code(c int16) string { return kerr.TypedErrorForCode(c).Message }

func record(b []byte, i batch.Info) string {
	return fmt.Sprintf("%d:%s@%d", i.Base, b[batch.HeaderSize:], i.Epoch)
}

func base(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func link(a, b broker.NodeID) string { return fmt.Sprintf("%d-%d", min(a, b), max(a, b)) }

func (c *cluster) printf(f string, args ...any) { fmt.Fprintf(&c.out, f, args...) }

// testBatch is a batch of one record; its body is the value itself, which nobody
// below a client decodes.
func testBatch(value string, pid int64, pepoch int16, seq int32) []byte {
	b := make([]byte, batch.HeaderSize, batch.HeaderSize+len(value))
	b = append(b, value...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint64(b[43:], uint64(pid))
	binary.BigEndian.PutUint16(b[51:], uint16(pepoch))
	binary.BigEndian.PutUint32(b[53:], uint32(seq))
	binary.BigEndian.PutUint32(b[57:], 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func (c *cluster) node(id broker.NodeID) *replica { return c.nodes[id-1] }

func (c *cluster) run(t *testing.T, d *datadriven.TestData) string {
	c.out.Reset()
	plain := func() (ids []broker.NodeID) {
		for _, a := range d.CmdArgs {
			if n, err := strconv.Atoi(a.Key); err == nil && len(a.Vals) == 0 {
				ids = append(ids, broker.NodeID(n))
			}
		}
		return ids
	}
	switch d.Cmd {
	case "new":
		c.create(t, d)
	case "send":
		c.send(t, d)
	case "store":
		for _, id := range plain() {
			c.store(c.node(id))
		}
	case "deliver":
		n := 1
		d.MaybeScanArgs(t, "n", &n)
		for range n {
			if !c.deliver(c.oldest(d)) {
				c.printf("nothing is on its way\n")
				break
			}
		}
	case "drop":
		for i := c.oldest(d); i >= 0; i = c.oldest(d) {
			c.printf("lost %v\n", c.wires[i])
			c.wires = slices.Delete(c.wires, i, i+1)
		}
	case "run":
		c.settle(t)
	case "cut", "heal":
		for _, a := range d.CmdArgs {
			var x, y broker.NodeID
			_, err := fmt.Sscanf(a.Key, "%d-%d", &x, &y)
			require.NoError(t, err)
			c.down[link(x, y)] = d.Cmd == "cut"
			c.wires = slices.DeleteFunc(c.wires, func(e envelope) bool { return link(e.from, e.to) == link(x, y) })
			for _, p := range [][2]broker.NodeID{{x, y}, {y, x}} {
				if r := c.node(p[0]); r.up {
					r.m.Link(p[1], d.Cmd == "heal")
				}
			}
		}
	case "time":
		until, err := time.ParseDuration(d.CmdArgs[0].Key)
		require.NoError(t, err)
		c.pass(t, until)
	case "elect":
		c.elect(t, d)
	case "learn":
		for _, id := range plain() {
			c.node(id).m.Assigned(c.a)
		}
	case "answer":
		c.answer(t, d.CmdArgs[0].Key)
	case "crash", "power":
		for _, id := range plain() {
			c.die(c.node(id), d.Cmd == "power")
		}
	case "start":
		for _, id := range plain() {
			c.start(c.node(id))
		}
	case "fence", "unfence":
		for _, id := range plain() {
			c.fenced[id] = d.Cmd == "fence"
		}
	case "read":
		epoch := int32(-1)
		d.MaybeScanArgs(t, "epoch", &epoch)
		for _, id := range plain() {
			if limit, errCode := c.node(id).m.CheckRead(epoch); errCode != 0 {
				c.printf("%d: %s\n", id, code(errCode))
			} else {
				c.printf("%d: below %d\n", id, limit)
			}
		}
	case "show":
		for _, r := range c.nodes {
			if ids := plain(); len(ids) == 0 || slices.Contains(ids, r.id) {
				c.show(r)
			}
		}
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	c.check(t)
	return c.out.String()
}

func (c *cluster) create(t *testing.T, d *datadriven.TestData) {
	n := 3
	*c = cluster{down: map[string]bool{}, epochs: map[broker.NodeID]int64{}, fenced: map[broker.NodeID]bool{}, opts: scheme.DefaultOptions(), nextEpoch: 100}
	c.a = scheme.Assignment{Leader: 1, MinISR: 2, Epoch: 1, PartEpoch: 1}
	d.MaybeScanArgs(t, "nodes", &n)
	d.MaybeScanArgs(t, "min", &c.a.MinISR)
	lag := ""
	if d.MaybeScanArgs(t, "lag", &lag) {
		var err error
		c.opts.ReplicaLag, err = time.ParseDuration(lag)
		require.NoError(t, err)
	}
	for i := range n {
		r := &replica{c: c, id: broker.NodeID(i + 1), index: logindex.New(0, nil)}
		c.nodes = append(c.nodes, r)
		c.a.Replicas = append(c.a.Replicas, r.id)
		c.boot(r)
	}
	c.a.ISR = slices.Clone(c.a.Replicas)
	for _, r := range c.nodes {
		r.m.Assigned(c.a)
	}
}

func (c *cluster) boot(r *replica) {
	c.nextEpoch++
	r.epoch, c.epochs[r.id] = c.nextEpoch, c.nextEpoch
	r.up, r.values = true, map[uint64]string{}
	r.m = New(r, c.opts, 0).(*Machine)
}

func (c *cluster) die(r *replica, power bool) {
	r.up = false
	r.m = nil
	if power {
		r.index.Truncate(r.stable)
	}
	var infos []batch.Info
	keep := r.log[:0]
	for _, b := range r.log {
		if base(b) < r.index.End() {
			info, _ := batch.Parse(b)
			infos, keep = append(infos, info), append(keep, b)
		}
	}
	// What is found at start is durable: recovery syncs it.
	r.log, r.index = keep, logindex.New(0, infos)
	r.stable = r.index.End()
	c.wires = slices.DeleteFunc(c.wires, func(e envelope) bool { return e.from == r.id || e.to == r.id })
	for _, p := range c.nodes {
		if p.up {
			p.m.Link(r.id, false)
		}
	}
}

// start registers a new incarnation, as the metadata quorum does it.
func (c *cluster) start(r *replica) {
	c.boot(r)
	if len(c.a.ISR) > 1 && slices.Contains(c.a.ISR, r.id) {
		c.a.ISR = slices.DeleteFunc(slices.Clone(c.a.ISR), func(id broker.NodeID) bool { return id == r.id })
		c.a.PartEpoch++
	}
	c.a.Unclean = false
	for _, p := range c.nodes {
		if p.up {
			p.m.Assigned(c.a)
		}
	}
	for _, p := range c.nodes {
		if p.up && p.id != r.id {
			p.m.Link(r.id, true)
		}
	}
}

func (c *cluster) send(t *testing.T, d *datadriven.TestData) {
	acks, pepoch := "all", int16(0)
	pid, seq := int64(batch.NoProducer), int32(0)
	timeout := "1s"
	d.MaybeScanArgs(t, "acks", &acks)
	d.MaybeScanArgs(t, "timeout", &timeout)
	d.MaybeScanArgs(t, "pid", &pid)
	d.MaybeScanArgs(t, "seq", &seq)
	d.MaybeScanArgs(t, "pepoch", &pepoch)
	wait, err := time.ParseDuration(timeout)
	require.NoError(t, err)
	n, err := strconv.Atoi(d.CmdArgs[0].Key)
	require.NoError(t, err)
	r := c.node(broker.NodeID(n))
	for _, a := range d.CmdArgs[1:] {
		if len(a.Vals) > 0 {
			continue
		}
		c.token++
		r.values[c.token] = a.Key
		b := testBatch(a.Key, pid, pepoch, seq)
		info, err := batch.Parse(b)
		require.NoError(t, err)
		want := map[string]int16{"0": 0, "1": 1, "all": -1}[acks]
		r.m.Produce(scheme.Produce{Token: c.token, Batch: b, Info: info, Acks: want, Timeout: wait})
		seq++
	}
}

func (c *cluster) store(r *replica) bool {
	if !r.up || r.stable == r.index.End() {
		return false
	}
	r.stable = r.index.End()
	r.m.Stored()
	return true
}

// oldest is the position of the oldest message, of the direction FROM>TO if the
// command names one, -1 where there is none.
func (c *cluster) oldest(d *datadriven.TestData) int {
	for _, a := range d.CmdArgs {
		if strings.Contains(a.Key, ">") {
			return slices.IndexFunc(c.wires, func(e envelope) bool { return fmt.Sprintf("%d>%d", e.from, e.to) == a.Key })
		}
	}
	return min(0, len(c.wires)-1)
}

func (c *cluster) deliver(i int) bool {
	if i < 0 {
		return false
	}
	e := c.wires[i]
	c.wires = slices.Delete(c.wires, i, i+1)
	if r := c.node(e.to); r.up {
		r.m.Message(e.from, e.msg)
	}
	return true
}

func (c *cluster) settle(t *testing.T) {
	c.quiet = true
	defer func() { c.quiet = false }()
	for n := 0; ; n++ {
		require.Less(t, n, 10_000, "the replicas talk without end")
		busy := c.deliver(min(0, len(c.wires)-1))
		for _, r := range c.nodes {
			busy = c.store(r) || busy
		}
		if !busy {
			return
		}
		c.check(t)
	}
}

// pass lets time go by; messages and disks keep up, as they do in milliseconds.
func (c *cluster) pass(t *testing.T, d time.Duration) {
	end := c.now.Mono + d
	for n := 0; ; n++ {
		require.Less(t, n, 10_000, "timers fire without end")
		next := scheme.Never
		for _, r := range c.nodes {
			if r.up {
				next = min(next, r.m.NextWake())
			}
		}
		if next > end {
			break
		}
		c.now.Mono = max(c.now.Mono, next)
		c.quiet = true
		for _, r := range c.nodes {
			if r.up && r.m.NextWake() <= c.now.Mono {
				r.m.Wake()
			}
		}
		c.settle(t)
	}
	c.now.Mono = end
}

func (c *cluster) elect(t *testing.T, d *datadriven.TestData) {
	var tell []broker.NodeID
	leader, left := broker.None, false
	if d.CmdArgs[0].Key != "none" {
		n, err := strconv.Atoi(d.CmdArgs[0].Key)
		require.NoError(t, err)
		leader = broker.NodeID(n)
	}
	for _, r := range c.nodes {
		tell = append(tell, r.id)
	}
	for _, a := range d.CmdArgs[1:] {
		ids := make([]broker.NodeID, len(a.Vals))
		for i := range a.Vals {
			n, err := strconv.Atoi(a.Vals[i])
			require.NoError(t, err)
			ids[i] = broker.NodeID(n)
		}
		switch a.Key {
		case "isr":
			c.a.ISR = ids
		case "replicas":
			left = slices.ContainsFunc(c.a.Replicas, func(id broker.NodeID) bool { return !slices.Contains(ids, id) })
			c.a.Replicas = ids
		case "tell":
			tell = ids
		}
	}
	if leader != c.a.Leader || left {
		c.a.Epoch++
	}
	c.a.Leader, c.a.Unclean = leader, d.HasArg("unclean")
	c.a.PartEpoch++
	for _, id := range tell {
		if c.node(id).up {
			c.node(id).m.Assigned(c.a)
		}
	}
}

// answer does with the oldest proposal what the metadata quorum does.
func (c *cluster) answer(t *testing.T, how string) {
	require.NotEmpty(t, c.proposals, "nothing is proposed")
	p := c.proposals[0]
	c.proposals = c.proposals[1:]
	if how == "lose" {
		c.printf("whether it was applied is unknown\n")
		p.tell(kerr.RequestTimedOut.Code)
		return
	}
	refusal := kerr.IneligibleReplica
	ok := how == "apply"
	if p.partEpoch != c.a.PartEpoch || p.epoch != c.a.Epoch {
		ok, refusal = false, kerr.InvalidUpdateVersion
	}
	isr := make([]broker.NodeID, len(p.isr))
	for i, m := range p.isr {
		isr[i] = m.ID
		if e := c.epochs[m.ID]; m.Epoch >= 0 && m.Epoch != e || c.fenced[m.ID] {
			ok = false
		}
	}
	if !ok {
		c.printf("refused: %s\n", refusal.Message)
		p.tell(refusal.Code)
		return
	}
	if !slices.Equal(isr, c.a.ISR) {
		c.a.ISR, c.a.Unclean = isr, false
		c.a.PartEpoch++
	}
	for _, r := range c.nodes {
		if r.up {
			r.m.Assigned(c.a)
		}
	}
	p.tell(0)
}

// tell gives the outcome to the proposer, unless it has proposed something else since.
func (p proposal) tell(code int16) {
	if p.node.up && p.node.epoch == p.by && p.node.newest == p.n {
		p.node.m.ISRAnswer(code)
	}
}

func (c *cluster) show(r *replica) {
	if !r.up {
		c.printf("%d down     ", r.id)
	} else {
		c.printf("%d %-8s ", r.id, [...]string{"idle", "leader", "follower"}[r.m.role])
	}
	mark := func(at int64) string {
		s := ""
		if r.up && at == r.m.high {
			s += " ^"
		}
		if at == r.stable {
			s += " |"
		}
		return s
	}
	c.printf("epoch %d:", func() int32 {
		if r.up {
			return r.m.a.Epoch
		}
		return -1
	}())
	c.printf("%s", mark(0))
	for _, b := range r.log {
		i, _ := batch.Parse(b)
		c.printf(" %s%s", record(b, i), mark(i.Last+1))
	}
	if r.up && r.m.role == leader {
		c.printf("  isr %v maximal %v", r.m.a.ISR, r.m.maximal)
		if r.m.pending {
			c.printf(" pending")
		}
	}
	c.printf("\n")
}

// check holds after every command: the log is what the index says, and the high
// watermark of a leader is covered by every member of the in-sync set that the
// authority knows.
func (c *cluster) check(t *testing.T) {
	t.Helper()
	for _, r := range c.nodes {
		end := int64(0)
		for _, b := range r.log {
			require.Equal(t, end, base(b), "log of %d", r.id)
			end = base(b) + 1
		}
		require.Equal(t, end, r.index.End(), "index of %d", r.id)
		if !r.up {
			continue
		}
		require.LessOrEqual(t, r.m.high, end, "high watermark of %d", r.id)
	}
}

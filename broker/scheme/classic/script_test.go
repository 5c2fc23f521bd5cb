package classic_test

import (
	"encoding/binary"
	"fmt"
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
	"github.com/faultline-mq/faultline/broker/scheme/classic"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

// A script is a sequence of commands and what comes of each:
//
//	new self=N home=M [OPTION=VALUE …]
//	view N …            the nodes that this one reaches
//	send VALUE [acks=0] a client sends to this node
//	store               what was written is durable
//	read                up to where a consumer may read here, and who answers
//	restart             the process dies and starts, with what is durable
//	rejoin              the node joins the cluster anew
//	pause               the partition policy does not let it serve
//	time DURATION       passes
type host struct {
	scheme.Host // what classic does not use
	t           *testing.T
	self, home  broker.NodeID
	set         map[string]string
	m           scheme.Machine
	now         time.Duration
	index       *logindex.Index
	kept        []batch.Info
	stable      int64
	epoch       int32
	session     int
	paused      bool
	reached     []broker.NodeID
	values      map[uint64]string
	out         strings.Builder
}

func (h *host) Self() broker.NodeID          { return h.self }
func (h *host) Name(id broker.NodeID) string { return "n" + id.String() }
func (h *host) Now() broker.Time             { return broker.Time{Mono: h.now} }
func (h *host) Index() *logindex.Index       { return h.index }
func (h *host) Stable() int64                { return h.stable }
func (h *host) Refused() bool                { return false }
func (h *host) Advanced()                    {}

func (h *host) Truncate(to int64) int64 {
	end := h.index.Truncate(to)
	h.stable = min(h.stable, end)
	return end
}

func (h *host) Emit(ev broker.Event) {
	fmt.Fprintf(&h.out, "%s", ev.Kind)
	if ev.Kind == "truncate" {
		fmt.Fprintf(&h.out, " removed=[%d,%d): %s", ev.From, ev.To, ev.Detail)
	}
	fmt.Fprintln(&h.out)
}

func (h *host) Produced(token uint64, p scheme.Produced) {
	if p.Code != 0 {
		fmt.Fprintf(&h.out, "answers %s: %s", h.values[token], kerr.TypedErrorForCode(p.Code).Message)
		if p.Text != "" {
			fmt.Fprintf(&h.out, " (%s)", p.Text)
		}
		fmt.Fprintln(&h.out)
		return
	}
	fmt.Fprintf(&h.out, "answers %s: ok at %d\n", h.values[token], p.Base)
}

func (h *host) Append(_ [][]byte, infos []batch.Info) {
	for _, i := range infos {
		h.index.Append(i)
		h.kept = append(h.kept, i)
	}
}

func (h *host) boot() {
	o, err := schemes.Resolve(h.set)
	require.NoError(h.t, err)
	opts := scheme.DefaultOptions()
	opts.Set = o
	h.m, h.epoch = classic.New(h, opts, 0), 0
	h.tell()
}

func (h *host) tell() {
	h.epoch++
	r := scheme.Record{Version: 1, Master: h.home, Mirrors: []broker.NodeID{h.home}, Synced: []broker.NodeID{h.home}}
	h.m.Assigned(scheme.Assignment{PartEpoch: h.epoch, Peers: &scheme.Neighbours{Record: r, Live: h.reached, Reached: h.reached, Paused: h.paused, Session: h.session}})
}

func (h *host) run(t *testing.T, d *datadriven.TestData) string {
	h.out.Reset()
	switch d.Cmd {
	case "view":
		h.reached = nil
		for _, a := range d.CmdArgs {
			id, err := strconv.Atoi(a.Key)
			require.NoError(t, err)
			h.reached = append(h.reached, broker.NodeID(id))
		}
		h.tell()
	case "send":
		token := uint64(len(h.values) + 1)
		h.values[token] = d.CmdArgs[0].Key
		acks := int16(-1)
		if d.HasArg("acks") {
			acks = 0
		}
		b := make([]byte, batch.HeaderSize)
		binary.BigEndian.PutUint32(b[57:], 1)
		h.m.Produce(scheme.Produce{Token: token, Batch: b, Info: batch.Info{ProducerID: -1, Records: 1}, Acks: acks, Timeout: time.Second})
	case "store":
		h.stable = h.index.End()
		h.m.Stored()
	case "read":
		limit, code := h.m.CheckRead(-1)
		v := h.m.View()
		switch {
		case code != 0:
			fmt.Fprintf(&h.out, "%s", kerr.TypedErrorForCode(code).Message)
		default:
			fmt.Fprintf(&h.out, "up to %d", limit)
		}
		fmt.Fprintf(&h.out, "; answered by %d\n", v.Leader)
	case "restart":
		h.kept = slices.DeleteFunc(h.kept, func(i batch.Info) bool { return i.Last >= h.stable })
		h.index = logindex.New(0, h.kept)
		h.session = 1
		h.boot()
	case "rejoin":
		h.session++
		h.paused = false
		h.tell()
	case "pause":
		h.paused = true
		h.tell()
	case "time":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		require.NoError(t, err)
		h.now += by
		if h.m.NextWake() <= h.now {
			h.m.Wake()
		}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return h.out.String()
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var h *host
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "new" {
				return h.run(t, d)
			}
			h = &host{t: t, set: map[string]string{}, index: logindex.New(0, nil), values: map[uint64]string{}, session: 1, reached: []broker.NodeID{1, 2}}
			for _, a := range d.CmdArgs {
				id, _ := strconv.Atoi(a.Vals[0])
				switch a.Key {
				case "self":
					h.self = broker.NodeID(id)
				case "home":
					h.home = broker.NodeID(id)
				default:
					h.set[a.Key] = a.Vals[0]
				}
			}
			h.boot()
			return h.out.String()
		})
	})
}

package schemetest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Arg is one argument of a command, as datadriven reads it.
type Arg struct {
	Key  string
	Vals []string
}

// Run carries out a command of a script and returns what came of it:
//
//	send NODE VALUE… [acks=0|1|all]  one batch of one record per VALUE
//	store NODE…                      everything written so far is durable there
//	deliver [FROM>TO] [n=N]          the oldest N (1) messages (of that direction) arrive
//	drop [FROM>TO]                   messages on their way are lost
//	run                              deliver and store until all is quiet; shows no message
//	cut A-B…, heal A-B…              links, both directions; what is on its way is lost
//	time D                           time passes; due timers fire; messages and disks keep up
//	elect NODE|none [isr=(…)]        the authority decides, in a new epoch, and all learn it
//	crash NODE…, power NODE…         the process dies; with power, what is not durable is gone
//	wipe NODE…                       the disk of one that is down is empty
//	start NODE…                      a new incarnation
//	resign NODE                      the node is about to stop
//	read NODE… [epoch=N]             what a consumer may read
//	show [NODE…]                     logs as offset:value@epoch; | durable up to here; ^ visible
func (w *World) Run(cmd string, args []Arg) (string, error) {
	w.out.Reset()
	err := w.run(cmd, args)
	return w.out.String(), err
}

func (w *World) run(cmd string, args []Arg) error {
	switch cmd {
	case "send":
		acks := map[string]int16{"": -1, "all": -1, "0": 0, "1": 1}[value(args, "acks")]
		for _, a := range args[1:] {
			if len(a.Vals) == 0 {
				w.Produce(w.nodes(args[:1])[0], a.Key, acks, time.Second)
			}
		}
	case "store":
		for _, n := range w.nodes(args) {
			w.Store(n)
		}
	case "deliver":
		count, err := strconv.Atoi("0" + value(args, "n"))
		if err != nil {
			return err
		}
		for range max(1, count) {
			i := w.oldest(args)
			if i < 0 {
				w.Printf("nothing is on its way\n")
				break
			}
			w.Deliver(i)
		}
	case "drop":
		for i := w.oldest(args); i >= 0; i = w.oldest(args) {
			w.Printf("lost %s\n", w.Show(w.Wires[i]))
			w.Wires = slices.Delete(w.Wires, i, i+1)
		}
	case "run":
		return w.Settle()
	case "cut", "heal":
		for _, a := range args {
			var x, y broker.NodeID
			if _, err := fmt.Sscanf(a.Key, "%d-%d", &x, &y); err != nil {
				return err
			}
			w.Cut(x, y, cmd == "cut")
			w.Cut(y, x, cmd == "cut")
		}
	case "time":
		d, err := time.ParseDuration(args[0].Key)
		if err != nil {
			return err
		}
		return w.Pass(d)
	case "elect":
		w.elect(args)
	case "crash", "power":
		for _, n := range w.nodes(args) {
			writes := n.Pending()
			if cmd == "power" {
				writes = 0
			}
			w.Die(n, writes)
		}
	case "wipe":
		for _, n := range w.nodes(args) {
			w.Wipe(n)
		}
	case "start":
		for _, n := range w.nodes(args) {
			w.Boot(n)
		}
	case "resign":
		for _, n := range w.nodes(args) {
			n.M.(scheme.Resigner).Resign()
		}
	case "read":
		epoch := int32(-1)
		if v := value(args, "epoch"); v != "" {
			e, err := strconv.Atoi(v)
			if err != nil {
				return err
			}
			epoch = int32(e)
		}
		for _, n := range w.nodes(args) {
			if limit, code := n.M.CheckRead(epoch); code != 0 {
				w.Printf("%d: %s\n", n.ID, Code(code))
			} else {
				w.Printf("%d: below %d\n", n.ID, limit)
			}
		}
	case "show":
		nodes := w.nodes(args)
		if len(nodes) == 0 {
			nodes = w.Nodes
		}
		for _, n := range nodes {
			role := "follower"
			if n.Up && n.M.View().Leader == n.ID {
				role = "leader  "
			}
			w.ShowLog(n, role)
		}
	default:
		return fmt.Errorf("unknown command %q", cmd)
	}
	return nil
}

func (w *World) elect(args []Arg) {
	leader := broker.None
	if n := w.nodes(args[:1]); len(n) > 0 {
		leader = n[0].ID
	}
	w.Assign(func(a *scheme.Assignment) {
		for _, arg := range args[1:] {
			if arg.Key == "isr" {
				a.ISR = nil
				for _, v := range arg.Vals {
					id, _ := strconv.Atoi(v)
					a.ISR = append(a.ISR, broker.NodeID(id))
				}
			}
		}
		if leader != a.Leader {
			a.Epoch++
		}
		a.Leader = leader
	})
}

// nodes gives the replicas that are named.
func (w *World) nodes(args []Arg) []*Node {
	var nodes []*Node
	for _, a := range args {
		if id, err := strconv.Atoi(a.Key); err == nil && len(a.Vals) == 0 {
			nodes = append(nodes, w.Node(broker.NodeID(id)))
		}
	}
	return nodes
}

func value(args []Arg, key string) string {
	for _, a := range args {
		if a.Key == key && len(a.Vals) > 0 {
			return a.Vals[0]
		}
	}
	return ""
}

// oldest is the position of the oldest message, of the direction FROM>TO if one is
// named, -1 where there is none.
func (w *World) oldest(args []Arg) int {
	for _, a := range args {
		if strings.Contains(a.Key, ">") {
			return slices.IndexFunc(w.Wires, func(e Envelope) bool { return fmt.Sprintf("%d>%d", e.From, e.To) == a.Key })
		}
	}
	return min(0, len(w.Wires)-1)
}

package jepsen

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"olympos.io/encoding/edn"

	"github.com/faultline-mq/faultline/checker/linear"
)

// etcdLine is one line of a log of jepsen.util: process, type, function, value.
var etcdLine = regexp.MustCompile(`^INFO\s+jepsen\.util\s+-\s+(\S+)\s+:(\S+)\s+:(\S+)\s+(.*?)\s*$`)

// ReadEtcdLog reads the lines that Jepsen logged of a register, as Porcupine's tests
// keep them: INFO jepsen.util - 3 :invoke :write 4, with :read, :write and :cas [old
// new]. Other lines, and those of a process that is no number, are left out. Their order
// is their time. A :cas that ends as :fail saw another value; any other :fail, and a
// read that timed out, says nothing. The object is linear.CAS if there is a :cas, and
// linear.Register if not. An error names the line, from 1 on.
func ReadEtcdLog(r io.Reader) (linear.Object, []linear.Op, error) {
	type call struct {
		line int
		f    string
		op   linear.Op
	}
	var (
		object  = linear.Register
		ops     []linear.Op
		running = map[int64]call{}
		in      = bufio.NewScanner(r)
	)
	in.Buffer(nil, 1<<20)
	n := 0
	for in.Scan() {
		n++
		m := etcdLine.FindStringSubmatch(in.Text())
		if m == nil {
			continue
		}
		process, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			continue
		}
		kind, f, value := m[2], m[3], m[4]
		if f == "cas" {
			object = linear.CAS
		}
		was, busy := running[process]
		if kind == "invoke" {
			if busy {
				return "", nil, fmt.Errorf("line %d: process %d calls :%s, and its :%s of line %d has not ended", n, process, f, was.f, was.line)
			}
			c := call{line: n, f: f}
			if c.op, err = etcdCall(f, value); err != nil {
				return "", nil, fmt.Errorf("line %d: %w", n, err)
			}
			c.op.Call, c.op.Return = int64(n), linear.Never
			running[process] = c
			continue
		}
		switch {
		case !busy:
			return "", nil, fmt.Errorf("line %d: :%s ends :%s of process %d, which called nothing", n, kind, f, process)
		case was.f != f:
			return "", nil, fmt.Errorf("line %d: its process is in :%s since line %d, and this ends :%s", n, was.f, was.line, f)
		}
		delete(running, process)
		op := was.op
		switch {
		case kind == "info":
		case kind == "fail" && f != "cas":
			continue
		case kind == "fail":
			op.Kind, op.Return = linear.Refused, int64(n)
		case kind != "ok":
			return "", nil, fmt.Errorf("line %d: :%s is none of :invoke, :ok, :fail and :info", n, kind)
		default:
			if op.Return = int64(n); f == "read" && value != "nil" {
				if op.Value, err = etcdNumber(value); err != nil {
					return "", nil, fmt.Errorf("line %d: %w", n, err)
				}
			}
		}
		ops = append(ops, op)
	}
	if err := in.Err(); err != nil {
		return "", nil, fmt.Errorf("reading line %d of a log: %w", n+1, err)
	}
	for _, c := range running {
		ops = append(ops, c.op)
	}
	slices.SortFunc(ops, func(a, b linear.Op) int { return cmp.Compare(a.Call, b.Call) })
	return object, ops, nil
}

func etcdCall(f, value string) (o linear.Op, err error) {
	switch f {
	case "read":
		return linear.Op{Kind: linear.Read, Value: linear.Unset}, nil
	case "write":
		o.Kind = linear.Write
		o.Value, err = etcdNumber(value)
		return o, err
	case "cas":
		o.Kind = linear.Swap
		from, to, pair := strings.Cut(strings.Trim(value, "[]"), " ")
		if !pair {
			return o, fmt.Errorf("the value %s of a :cas is no pair [old new]", value)
		}
		old, err := etcdNumber(from)
		if err == nil {
			o.Offset = int64(old)
			o.Value, err = etcdNumber(to)
		}
		return o, err
	}
	return o, fmt.Errorf(":%s is no operation on a register: :read, :write and :cas are known", f)
}

func etcdNumber(s string) (uint64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n == math.MaxInt64 {
		return 0, fmt.Errorf("the value %s is no integer from 0 on", s)
	}
	return uint64(n), nil
}

// Texts is what happened to one key of a key-value store.
type Texts struct {
	Key string
	Ops []linear.TextOp
}

// ReadKV reads a history of a key-value store as Porcupine's tests keep it: one map a
// line, {:process 0, :type :invoke, :f :get, :key "3", :value nil}, with :get, :put and
// :append. Their order is their time; what has no end is unanswered. Keys come in
// order. An error names the map, from 1 on.
func ReadKV(r io.Reader) ([]Texts, error) {
	type event struct {
		Process *int64      `edn:"process"`
		Type    edn.Keyword `edn:"type"`
		F       edn.Keyword `edn:"f"`
		Key     *string     `edn:"key"`
		Value   any         `edn:"value"`
	}
	type call struct {
		event
		line int
		op   linear.TextOp
	}
	kinds := map[edn.Keyword]linear.TextKind{"put": linear.Put, "append": linear.Concat, "get": linear.Look}
	keys := map[string][]linear.TextOp{}
	running := map[int64]call{}
	d := edn.NewDecoder(bufio.NewReader(r))
	for n := 1; ; n++ {
		var e event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("line %d is no map of a key-value history: %w", n, err)
		}
		kind, known := kinds[e.F]
		switch {
		case e.Process == nil || e.Key == nil:
			return nil, fmt.Errorf("line %d: a map needs :process and :key, a number and a text", n)
		case !known:
			return nil, fmt.Errorf("line %d: %s is no operation on a text: :get, :put and :append are known", n, e.F)
		}
		text, isText := e.Value.(string)
		was, busy := running[*e.Process]
		if e.Type == "invoke" {
			switch {
			case busy:
				return nil, fmt.Errorf("line %d: process %d calls %s, and its %s of line %d has not ended", n, *e.Process, e.F, was.F, was.line)
			case kind != linear.Look && !isText:
				return nil, fmt.Errorf("line %d: the value %v of a %s is no text", n, e.Value, e.F)
			}
			running[*e.Process] = call{e, n, linear.TextOp{Call: int64(n), Return: linear.Never, Kind: kind, Text: text}}
			continue
		}
		switch {
		case !busy:
			return nil, fmt.Errorf("line %d: %s ends %s of process %d, which called nothing", n, e.Type, e.F, *e.Process)
		case was.F != e.F || *was.Key != *e.Key:
			return nil, fmt.Errorf("line %d: its process is in %s of key %q since line %d, and this ends %s of key %q", n, was.F, *was.Key, was.line, e.F, *e.Key)
		}
		delete(running, *e.Process)
		switch e.Type {
		case "ok":
			if was.op.Return = int64(n); kind == linear.Look {
				if !isText {
					return nil, fmt.Errorf("line %d: the value %v that a :get saw is no text", n, e.Value)
				}
				was.op.Text = text
			}
		case "fail":
			continue
		case "info":
		default:
			return nil, fmt.Errorf("line %d: :type %s is none of :invoke, :ok, :fail and :info", n, e.Type)
		}
		keys[*e.Key] = append(keys[*e.Key], was.op)
	}
	for _, c := range running {
		keys[*c.Key] = append(keys[*c.Key], c.op)
	}
	var all []Texts
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		ops := keys[key]
		slices.SortFunc(ops, func(a, b linear.TextOp) int { return cmp.Compare(a.Call, b.Call) })
		all = append(all, Texts{key, ops})
	}
	return all, nil
}

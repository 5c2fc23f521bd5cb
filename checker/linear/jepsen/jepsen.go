// Package jepsen reads histories that Jepsen wrote, as operations on single objects.
package jepsen

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"olympos.io/encoding/edn"

	"github.com/faultline-mq/faultline/checker/linear"
)

// History is what happened to one object.
type History struct {
	Key string // "" where the history is of one object only
	Ops []linear.Op
}

// line is one map of a Jepsen history.
type line struct {
	Type    edn.Keyword `edn:"type"`
	F       edn.Keyword `edn:"f"`
	Process any         `edn:"process"`
	Value   any         `edn:"value"`
	Time    *int64      `edn:"time"`
	Node    any         `edn:"node"`
	Error   any         `edn:"error"`
}

// Read reads a Jepsen history in EDN: maps, one after another or in a vector, of
// which :type, :f, :process, :value and :time (nanoseconds) count. Where one has no
// time, their order is their time. What no client did (a :process that is no
// number) is left out. Of the objects these operations are known:
//
//   - Queue: :enqueue v, :dequeue v (:ok with nil found nothing), and :drain with
//     the vector of all that it dequeued;
//   - Register: :write v and :read v (nil: nothing was written yet);
//   - Log and SparseLog: :send and :poll of jepsen.tests.kafka; each key is a log.
//
// A register's values may be pairs [key value] (jepsen.independent), each key one
// object. Values are integers. Histories come in the order of their keys. An error
// names the line, from 1 on.
func Read(r io.Reader, object linear.Object) ([]History, error) {
	all, err := operations(r)
	if err != nil {
		return nil, err
	}
	return histories(all, object)
}

func histories(all []operation, object linear.Object) ([]History, error) {
	objects := map[string][]linear.Op{}
	for i := range all {
		o := &all[i]
		if o.failed {
			continue
		}
		if err := add(objects, object, o.call, o.done, o.from, o.until); err != nil {
			return nil, o.error(err)
		}
	}
	return sorted(objects), nil
}

// ReadRegister reads a Jepsen history of registers as Read does, and :cas [old new]
// too: the object is then linear.CAS. One that failed says nothing: it may have failed
// for another reason than the value.
func ReadRegister(r io.Reader) (linear.Object, []History, error) {
	all, err := operations(r)
	if err != nil {
		return "", nil, err
	}
	object := linear.Register
	if slices.ContainsFunc(all, func(o operation) bool { return o.call.F == "cas" }) {
		object = linear.CAS
	}
	histories, err := histories(all, object)
	return object, histories, err
}

// sorted brings objects in the order of their keys, and operations in that of their calls.
func sorted(objects map[string][]linear.Op) []History {
	var histories []History
	for key, ops := range objects {
		slices.SortFunc(ops, func(a, b linear.Op) int {
			return cmp.Or(cmp.Compare(a.Call, b.Call), cmp.Compare(a.Return, b.Return), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Offset, b.Offset))
		})
		histories = append(histories, History{key, ops})
	}
	slices.SortFunc(histories, func(a, b History) int { return cmp.Compare(a.Key, b.Key) })
	return histories
}

// operation is an invocation and what became of it.
type operation struct {
	call, end   *line // end is nil where there is none
	done        *line // end, where it says what was done; nil where nobody knows
	failed      bool
	process     int64
	from, until int64 // linear.Never: without an answer
	line        int   // its last one, from 1 on
}

func (o *operation) error(err error) error { return fmt.Errorf("line %d: %w", o.line, err) }

// operations reads what clients did, in the order of the ends, and what has none last.
func operations(r io.Reader) ([]operation, error) {
	all, err := lines(r)
	if err != nil {
		return nil, err
	}
	timed := !slices.ContainsFunc(all, func(l line) bool { return l.Time == nil })
	at := func(i int) int64 {
		if timed {
			return *all[i].Time
		}
		return int64(i)
	}
	var (
		found   []operation
		running = map[int64]int{} // process → the line of its invocation + 1
	)
	for i := range all {
		l := &all[i]
		process, client := l.Process.(int64)
		if !client {
			continue
		}
		switch l.Type {
		case "invoke":
			if was := running[process]; was != 0 {
				return nil, fmt.Errorf("line %d: process %d calls %s, and its %s of line %d has not ended", i+1, process, l.F, all[was-1].F, was)
			}
			running[process] = i + 1
		case "ok", "fail", "info":
			call := running[process] - 1
			if call < 0 {
				return nil, fmt.Errorf("line %d: %s ends %s of process %d, which called nothing", i+1, l.Type, l.F, process)
			}
			delete(running, process)
			o := operation{call: &all[call], end: l, process: process, from: at(call), until: linear.Never, line: i + 1}
			switch {
			case l.Type == "info":
			case l.F != o.call.F:
				return nil, fmt.Errorf("line %d: its process is in %s since line %d, and this ends %s", i+1, o.call.F, call+1, l.F)
			default:
				o.until, o.failed = at(i), l.Type == "fail"
				if !o.failed {
					o.done = l
				}
			}
			if o.until < o.from {
				return nil, fmt.Errorf("line %d: it ends at %d, before its call at %d (line %d)", i+1, o.until, o.from, call+1)
			}
			found = append(found, o)
		default:
			return nil, fmt.Errorf("line %d: :type %s is none of :invoke, :ok, :fail and :info", i+1, l.Type)
		}
	}
	for _, call := range slices.Sorted(maps.Values(running)) {
		found = append(found, operation{call: &all[call-1], process: all[call-1].Process.(int64), from: at(call - 1), until: linear.Never, line: call})
	}
	return found, nil
}

// lines reads the maps.
func lines(r io.Reader) ([]line, error) {
	b := bufio.NewReader(r)
	var all []line
	for {
		c, err := b.ReadByte()
		if err == nil && (c == ' ' || c == '\n' || c == '\r' || c == '\t') {
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading a Jepsen history: %w", err)
		}
		_ = b.UnreadByte() // it was just read
		d := edn.NewDecoder(b)
		if c == '[' {
			if err := d.Decode(&all); err != nil {
				return nil, fmt.Errorf("this is no vector of a Jepsen history's maps: %w", err)
			}
			return all, nil
		}
		for {
			var l line
			if err := d.Decode(&l); errors.Is(err, io.EOF) {
				return all, nil
			} else if err != nil {
				return nil, fmt.Errorf("line %d is no map of a Jepsen history: %w", len(all)+1, err)
			}
			all = append(all, l)
		}
	}
}

// add adds an operation. done is its completion, nil where nobody knows what became of it.
func add(objects map[string][]linear.Op, object linear.Object, call, done *line, from, until int64) error {
	one := func(key string, o linear.Op) {
		o.Call, o.Return = from, until
		objects[key] = append(objects[key], o)
	}
	said := call.Value
	if done != nil {
		said = done.Value
	}
	switch object {
	case linear.Queue:
		switch call.F {
		case "enqueue":
			v, err := number(call.Value)
			one("", linear.Op{Kind: linear.Enqueue, Value: v})
			return err
		case "dequeue":
			o := linear.Op{Kind: linear.Dequeue}
			var err error
			switch {
			case done == nil:
			case said == nil:
				o.Kind = linear.Empty
			default:
				o.Value, err = number(said)
			}
			one("", o)
			return err
		case "drain":
			values, vector := said.([]any)
			if done == nil || !vector {
				return fmt.Errorf("a :drain ends with the vector of all that it dequeued, or what it took is not known")
			}
			for _, each := range values {
				v, err := number(each)
				if err != nil {
					return err
				}
				one("", linear.Op{Kind: linear.Dequeue, Value: v})
			}
			return nil
		}
	case linear.Register, linear.CAS:
		key := ""
		pair, tuple := call.Value.([]any)
		if tuple && call.F == "cas" && len(pair) == 2 {
			_, tuple = pair[1].([]any) // [key [old new]]
		}
		if tuple {
			if len(pair) != 2 {
				return fmt.Errorf("the value %v is no pair of a key and a value", call.Value)
			}
			var err error
			if key, err = keyOf(pair[0]); err != nil {
				return err
			}
			call = &line{F: call.F, Value: pair[1]}
			answer, tuple := said.([]any)
			if !tuple || len(answer) != 2 {
				return fmt.Errorf("the value %v is no pair of a key and a value, as that of its invocation is", said)
			}
			said = answer[1]
		}
		switch call.F {
		case "write":
			v, err := number(call.Value)
			one(key, linear.Op{Kind: linear.Write, Value: v})
			return err
		case "cas":
			pair, ok := call.Value.([]any)
			if object != linear.CAS {
				break
			}
			if !ok || len(pair) != 2 {
				return fmt.Errorf("the value %v of a :cas is no pair [old new]", call.Value)
			}
			old, err := number(pair[0])
			if err != nil {
				return err
			}
			v, err := number(pair[1])
			one(key, linear.Op{Kind: linear.Swap, Offset: int64(old), Value: v})
			return err
		case "read":
			if done == nil {
				return nil // it says nothing
			}
			if said == nil {
				one(key, linear.Op{Kind: linear.Read, Value: linear.Unset})
				return nil
			}
			v, err := number(said)
			one(key, linear.Op{Kind: linear.Read, Value: v})
			return err
		}
	case linear.Log, linear.SparseLog:
		return kafka(call, done, one)
	}
	return fmt.Errorf("%s is no operation on a %s that is decided here", call.F, object)
}

// kafka adds the operations of jepsen.tests.kafka: [[:send k v] [:poll]] is answered
// by [[:send k [offset v]] [:poll {k [[offset v] …]}]].
func kafka(call, done *line, one func(string, linear.Op)) error {
	switch call.F {
	case "send", "poll", "txn":
	default:
		return nil // :assign, :subscribe, :crash and the like touch no record
	}
	said := call.Value
	if done != nil {
		said = done.Value
	}
	parts, vector := said.([]any)
	if !vector {
		return fmt.Errorf("the value %v is no vector of :send and :poll", said)
	}
	for _, each := range parts {
		part, _ := each.([]any)
		switch {
		case len(part) == 3 && part[0] == edn.Keyword("send"):
			o, err := record(part[2], linear.Append)
			if err != nil {
				return err
			}
			key, err := keyOf(part[1])
			if err != nil {
				return err
			}
			one(key, o)
		case len(part) == 2 && part[0] == edn.Keyword("poll"):
			if done == nil {
				continue
			}
			polled, ok := part[1].(map[any]any)
			if !ok {
				return fmt.Errorf("the :poll %v is no map from keys to records", part[1])
			}
			for of, list := range polled {
				key, err := keyOf(of)
				if err != nil {
					return err
				}
				records, ok := list.([]any)
				if !ok {
					return fmt.Errorf("%v is no vector of records", list)
				}
				for _, r := range records {
					if ours(r) {
						continue
					}
					o, err := record(r, linear.Get)
					if err != nil {
						return err
					}
					one(key, o)
				}
			}
		case len(part) == 1 && part[0] == edn.Keyword("poll"):
		default:
			return fmt.Errorf("%v is neither [:send key record] nor [:poll records]", each)
		}
	}
	return nil
}

// keyOf is the name of a key: a number, a text, a keyword or a symbol.
func keyOf(v any) (string, error) {
	switch v.(type) {
	case int64, string, edn.Keyword, edn.Symbol:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("the key %v is no number, text, keyword or symbol", v)
}

// ours reports whether a polled record is a sentinel of this project's drains: it
// takes an offset, and is no message.
func ours(record any) bool {
	pair, ok := record.([]any)
	if !ok || len(pair) != 2 {
		return false
	}
	text, ok := pair[1].(string)
	return ok && strings.HasPrefix(text, "sentinel@")
}

// record is a value, or a pair of its offset and its value.
func record(from any, kind linear.Kind) (linear.Op, error) {
	offset, value, err := placed(from)
	o := linear.Op{Kind: kind, Offset: offset}
	if err != nil {
		return o, err
	}
	o.Value, err = number(value)
	if err == nil && kind == linear.Get && o.Offset == linear.NoOffset {
		err = fmt.Errorf("%v was polled without its offset", from)
	}
	return o, err
}

// number is a value: an integer.
func number(v any) (uint64, error) {
	if i, ok := v.(int64); ok && i >= 0 {
		return uint64(i), nil
	}
	return 0, fmt.Errorf("the value %v is no integer from 0 on", v)
}

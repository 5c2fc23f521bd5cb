package history

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
)

// Digest returns the SHA-256, in hex, of everything in h but the run id, the
// format version, Started, Labels and Torn. Two runs of the simulator with one
// seed have one digest; so have a history and what was loaded from its file.
func (h *History) Digest() string {
	sum := sha256.New()
	d := digester{w: bufio.NewWriterSize(sum, 64<<10), sum: sum}
	header := h.Header
	header.Version, header.RunID, header.Started, header.Labels = 0, "", "", nil
	d.json(header)
	d.number(int64(len(h.Ops)))
	for i := range h.Ops {
		d.op(&h.Ops[i])
	}
	digestAll(&d, h.Phases)
	digestAll(&d, h.Faults)
	digestAll(&d, h.Events)
	digestAll(&d, h.Stalls)
	digestAll(&d, h.Replicas)
	for i := range h.Replicas {
		d.records(h.Replicas[i].Records)
	}
	digestAll(&d, h.Drains)
	digestAll(&d, h.Notes)
	d.flag(h.Closed)
	return d.hex()
}

// digester writes every field with its length or at a fixed width, so that no
// two histories give the same bytes. Writing to a hash never fails.
type digester struct {
	w   *bufio.Writer
	sum hash.Hash
	buf [8]byte
}

func digestAll[T any](d *digester, list []T) {
	d.number(int64(len(list)))
	for i := range list {
		d.json(&list[i])
	}
}

func (d *digester) number(v int64) {
	binary.LittleEndian.PutUint64(d.buf[:], uint64(v))
	_, _ = d.w.Write(d.buf[:])
}

func (d *digester) flag(b bool) {
	if b {
		d.number(1)
	} else {
		d.number(0)
	}
}

func (d *digester) text(s string) {
	d.number(int64(len(s)))
	_, _ = d.w.WriteString(s)
}

func (d *digester) json(v any) {
	b, err := json.Marshal(v)
	if err != nil { // plain structs always marshal
		b = []byte(err.Error())
	}
	d.text(string(b))
}

func (d *digester) op(op *Op) {
	k := knownOf(op)
	rest := k.differs(more{})
	for _, v := range [...]int64{
		op.ID, int64(op.Client), op.Process, int64(op.Kind) | int64(rest)<<8, int64(op.Key), int64(op.Node), op.Call, op.Return,
		int64(op.Outcome), int64(op.Value), op.Offset, op.From, op.High, int64(op.Epoch),
	} {
		d.number(v)
	}
	d.text(op.Code)
	d.flag(op.Acked)
	d.flag(op.Reset)
	for i, f := range k.numbers() {
		if rest&(1<<i) != 0 {
			d.number(*f)
		}
	}
	d.records(op.Records)
}

func (d *digester) records(records []Record) {
	d.number(int64(len(records)))
	for i := range records {
		r := &records[i]
		d.number(r.Offset)
		d.number(int64(r.Value))
		if r.Delivery == 0 {
			d.number(int64(r.Epoch)<<8 | int64(r.Payload))
			continue
		}
		d.number(int64(r.Epoch)<<8 | counted | int64(r.Payload))
		d.number(int64(r.Delivery))
	}
}

// counted marks a record that has a Delivery. Those without one, and operations
// without what is in more, are written as they were before there was any.
const counted = 1 << 7

func (d *digester) hex() string {
	_ = d.w.Flush()
	return hex.EncodeToString(d.sum.Sum(nil))
}

package kafka

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// number is what an idempotent producer gives to one batch.
type number struct {
	id    int64
	epoch int16
	first int32
}

// produceRequest writes one value as one uncompressed record batch.
func produceRequest(key Partition, value []byte, n number, acks int16, timeout time.Duration) *kmsg.ProduceRequest {
	r := kmsg.NewRecord()
	r.Value = value
	// The record's length prefix is a varint over what follows it.
	room := make([]byte, 0, len(value)+32)
	r.Length = int32(len(r.AppendTo(room)) - 1) // an empty length takes one byte
	b := kmsg.NewRecordBatch()
	b.PartitionLeaderEpoch, b.Magic, b.ProducerID, b.ProducerEpoch, b.FirstSequence, b.NumRecords = -1, 2, n.id, n.epoch, n.first, 1
	b.Records = r.AppendTo(room)
	b.Length = int32(49 + len(b.Records))
	raw := b.AppendTo(make([]byte, 0, 64+len(b.Records)))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))

	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(7)
	req.Acks, req.TimeoutMillis = acks, int32(timeout.Milliseconds())
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = key.Index, raw
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.Partitions = key.Topic, []kmsg.ProduceRequestTopicPartition{rp}
	req.Topics = []kmsg.ProduceRequestTopic{rt}
	return req
}

// produced returns the one partition of a produce response, nil where it is not there.
func produced(resp kmsg.Response) *kmsg.ProduceResponseTopicPartition {
	p, ok := resp.(*kmsg.ProduceResponse)
	if !ok || len(p.Topics) != 1 || len(p.Topics[0].Partitions) != 1 {
		return nil
	}
	return &p.Topics[0].Partitions[0]
}

// fetchRequest reads one partition. Replica is -1 for a consumer.
func fetchRequest(key Partition, replica, epoch int32, from int64, maxBytes int, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(11)
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = replica, int32(wait.Milliseconds()), 1, int32(maxBytes)
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.CurrentLeaderEpoch, rp.FetchOffset, rp.PartitionMaxBytes = key.Index, epoch, from, int32(maxBytes)
	rp.LogStartOffset = -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.Partitions = key.Topic, []kmsg.FetchRequestTopicPartition{rp}
	req.Topics = []kmsg.FetchRequestTopic{rt}
	return req
}

// fetched returns the one partition of a fetch response, nil where it is not there.
func fetched(resp kmsg.Response) *kmsg.FetchResponseTopicPartition {
	f, ok := resp.(*kmsg.FetchResponse)
	if !ok || f.ErrorCode != 0 || len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1 {
		return nil
	}
	return &f.Topics[0].Partitions[0]
}

// Records decodes record batches from offset from on. A batch or record that
// cannot be decoded yields one Altered record and an error; an incomplete batch
// at the end is what a byte limit does (Kafka cuts there) and no error.
func Records(runID string, data []byte, from int64) ([]history.Record, error) {
	var out []history.Record
	for len(data) >= 12 {
		size := int64(int32(binary.BigEndian.Uint32(data[8:]))) + 12
		if size < 61 {
			return append(out, history.Record{Offset: max(from, 0), Epoch: -1, Payload: history.Altered}), fmt.Errorf("record batch of %d bytes", size)
		}
		if size > int64(len(data)) {
			break
		}
		raw := data[:size]
		data = data[size:]
		var b kmsg.RecordBatch
		err := b.ReadFrom(raw)
		if err == nil && crc32.Checksum(raw[21:], castagnoli) != uint32(b.CRC) {
			err = fmt.Errorf("record batch at offset %d fails its CRC-32C", b.FirstOffset)
		}
		if err == nil && b.Attributes&0x07 != 0 {
			err = fmt.Errorf("record batch at offset %d is compressed; precise clients write none", b.FirstOffset)
		}
		if err == nil && b.Attributes&0x20 != 0 {
			continue // a control batch holds no records of clients
		}
		rest := b.Records
		for i := int32(0); err == nil && i < b.NumRecords; i++ {
			n, used := binary.Varint(rest)
			if used <= 0 || n < 0 || int64(used)+n > int64(len(rest)) {
				err = fmt.Errorf("record %d of the batch at offset %d is cut off", i, b.FirstOffset)
				break
			}
			var r kmsg.Record
			if err = r.ReadFrom(rest[:int64(used)+n]); err != nil {
				break
			}
			rest = rest[int64(used)+n:]
			offset := b.FirstOffset + int64(r.OffsetDelta)
			if offset < from {
				continue
			}
			v, state := workloads.Decode(runID, r.Value)
			out = append(out, history.Record{Offset: offset, Value: v, Epoch: b.PartitionLeaderEpoch, Payload: state})
		}
		if err != nil {
			return append(out, history.Record{Offset: max(b.FirstOffset, from), Epoch: -1, Payload: history.Altered}), err
		}
	}
	return out, nil
}

package cluster

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/faultline-mq/faultline/broker"
)

// encoding is deterministic: equal values give equal bytes (RFC 8949, 4.2).
var encoding = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}()

var decoding = func() cbor.DecMode {
	m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxArrayElements: 1 << 20}.DecMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}()

// envelope is what a raft entry holds.
type envelope struct {
	Node        broker.NodeID `cbor:"1,keyasint"`
	Incarnation string        `cbor:"2,keyasint"`
	Ticket      Ticket        `cbor:"3,keyasint"`
	// Oldest is the oldest ticket whose outcome the proposer still waits for:
	// older ones are never applied any more.
	Oldest Ticket `cbor:"4,keyasint"`
	// Term binds a controller's duty to the term in which it decided; 0 is any.
	Term uint64 `cbor:"5,keyasint,omitempty"`
	// MinISR, Unclean, Eligible and Election are the proposer's defaults, for CreateTopic: what
	// is applied must not depend on the configuration of the node that applies it.
	MinISR   int32           `cbor:"6,keyasint,omitempty"`
	Unclean  bool            `cbor:"7,keyasint,omitempty"`
	Kind     uint8           `cbor:"8,keyasint"`
	Body     cbor.RawMessage `cbor:"9,keyasint"`
	Eligible bool            `cbor:"10,keyasint,omitempty"`
	Election Election        `cbor:"11,keyasint,omitempty"`
}

// kind numbers the commands in the log; 0 is none. Numbers are never reused.
func kind(cmd Command) uint8 {
	switch cmd.(type) {
	case RegisterBroker:
		return 1
	case SetFenced:
		return 2
	case SetLeaving:
		return 3
	case CreateTopic:
		return 4
	case DeleteTopic:
		return 5
	case AlterPartition:
		return 6
	case ElectLeaders:
		return 7
	case AllocateProducerID:
		return 8
	case Reassign:
		return 9
	case UnregisterBroker:
		return 10
	case AddVoter:
		return 11
	case RemoveVoter:
		return 12
	case changeMember:
		return 13
	case ReportLeader:
		return 14
	}
	return 0
}

func (e *envelope) marshal(cmd Command) ([]byte, error) {
	e.Kind = kind(cmd)
	if e.Kind == 0 {
		return nil, fmt.Errorf("%T is not a command", cmd)
	}
	var err error
	if e.Body, err = encoding.Marshal(cmd); err != nil {
		return nil, err
	}
	return encoding.Marshal(e)
}

// decodeEnvelope also decodes the command.
func decodeEnvelope(data []byte) (envelope, Command, error) {
	var e envelope
	if err := decoding.Unmarshal(data, &e); err != nil {
		return e, nil, err
	}
	var cmd Command
	var err error
	switch e.Kind {
	case 1:
		cmd, err = body[RegisterBroker](e.Body)
	case 2:
		cmd, err = body[SetFenced](e.Body)
	case 3:
		cmd, err = body[SetLeaving](e.Body)
	case 4:
		cmd, err = body[CreateTopic](e.Body)
	case 5:
		cmd, err = body[DeleteTopic](e.Body)
	case 6:
		cmd, err = body[AlterPartition](e.Body)
	case 7:
		cmd, err = body[ElectLeaders](e.Body)
	case 8:
		cmd, err = body[AllocateProducerID](e.Body)
	case 9:
		cmd, err = body[Reassign](e.Body)
	case 10:
		cmd, err = body[UnregisterBroker](e.Body)
	case 11:
		cmd, err = body[AddVoter](e.Body)
	case 12:
		cmd, err = body[RemoveVoter](e.Body)
	case 13:
		cmd, err = body[changeMember](e.Body)
	case 14:
		cmd, err = body[ReportLeader](e.Body)
	default:
		err = fmt.Errorf("unknown kind of command %d", e.Kind)
	}
	return e, cmd, err
}

func body[T any](data []byte) (T, error) {
	var v T
	err := decoding.Unmarshal(data, &v)
	return v, err
}

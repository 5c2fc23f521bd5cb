package sidecar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// kernel is the filter of the namespace that the process lives in. The kernel
// holds the state: a rule's comment names its set, role and index.
type kernel struct {
	table  *nftables.Table
	chains []chain
	// track makes the kernel track connections from the start, which rules on new
	// connections need.
	track bool
	spare uint16
	queue *nfqueue // nil: nothing was queued yet
	// compat makes rules queue by the target of xtables, as kernels without the
	// expression of nftables have only that.
	compat bool
}

// chain is a chain of the table. What user space lets go on does not come back
// into the chain that queued it: so rules that queue have chains of their own,
// behind the others.
type chain struct {
	*nftables.Chain
	hook   Hook
	queues bool
}

// queuePriority is that of the chains that queue.
const queuePriority = 10

func newFilter(track bool) filter { return &kernel{track: track} }

// describe names the kernel feature that a failing nftables request points to.
func describe(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the container needs the capability NET_ADMIN", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: the engine's kernel needs nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)", err)
	}
	return err
}

func (k *kernel) setup(run string, spare uint16) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", describe(err))
	}
	k.spare = spare
	k.table = c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "faultline_" + run})
	k.chains = nil
	for hook, num := range map[Hook]*nftables.ChainHook{Input: nftables.ChainHookInput, Output: nftables.ChainHookOutput} {
		for _, queues := range []bool{false, true} {
			name, priority := string(hook), *nftables.ChainPriorityFilter
			if queues {
				name, priority = name+"-queue", priority+queuePriority
			}
			ch := c.AddChain(&nftables.Chain{
				Name: name, Table: k.table, Type: nftables.ChainTypeFilter, Hooknum: num, Priority: &priority,
			})
			k.chains = append(k.chains, chain{ch, hook, queues})
			if k.track {
				c.AddRule(&nftables.Rule{Table: k.table, Chain: ch, Exprs: rule{Hook: hook, New: true}.exprs(k.compat)})
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("creating table %s: %w", k.table.Name, describe(err))
	}
	return nil
}

func (k *kernel) apply(set string, rules []rule) error {
	queues := slices.ContainsFunc(rules, func(r rule) bool { return r.Action == enqueue })
	if queues {
		if k.queue == nil {
			q, err := openQueue(k.spare)
			if err != nil {
				return fmt.Errorf("adding rules of set %s: %w", set, err)
			}
			k.queue = q
		}
		for _, r := range rules {
			if r.Action == enqueue {
				k.queue.add(set, r)
			}
		}
	}
	err := k.flush(set, rules)
	if queues && !k.compat && lacking(err) {
		k.compat = true
		err = k.flush(set, rules)
	}
	if err == nil {
		return nil
	}
	if queues {
		k.queue.remove(set)
	}
	return fmt.Errorf("adding rules of set %s: %w", set, needs(err, rules))
}

// flush adds the rules to their chains.
func (k *kernel) flush(set string, rules []rule) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, r := range rules {
		i := slices.IndexFunc(k.chains, func(c chain) bool { return c.hook == r.Hook && c.queues == (r.Action == enqueue) })
		nr := &nftables.Rule{Table: k.table, Chain: k.chains[i].Chain, Exprs: r.exprs(k.compat), UserData: comment(set, r)}
		if r.Action == pass {
			c.InsertRule(nr)
		} else {
			c.AddRule(nr)
		}
	}
	return c.Flush()
}

// lacking reports whether the kernel does not know what it was asked for.
func lacking(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// needs names the kernel features that rules need, where one is lacking.
func needs(err error, rules []rule) error {
	if !lacking(err) {
		return describe(err)
	}
	var features []string
	for _, r := range rules {
		var f []string
		if r.Share > 0 {
			f = append(f, "CONFIG_NFT_NUMGEN")
		}
		switch r.Action {
		case duplicate:
			f = append(f, "CONFIG_NFT_DUP_IPV4")
		case reset:
			f = append(f, "CONFIG_NFT_REJECT_IPV4")
		case enqueue:
			f = append(f, queueFeatures)
		}
		for _, name := range f {
			if !slices.Contains(features, name) {
				features = append(features, name)
			}
		}
	}
	if len(features) == 0 {
		return describe(err)
	}
	return fmt.Errorf("%w: the engine's kernel needs %s", err, strings.Join(features, ", "))
}

func (k *kernel) remove(set string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	if k.queue != nil {
		defer k.queue.remove(set) // when nothing comes in any more
	}
	found := false
	for _, chain := range k.chains {
		rules, err := c.GetRules(k.table, chain.Chain)
		if err != nil {
			return fmt.Errorf("listing chain %s: %w", chain.Name, err)
		}
		for _, r := range rules {
			if s, _, ok := parseComment(r.UserData); !ok || s != set {
				continue
			}
			found = true
			if err := c.DelRule(&nftables.Rule{Table: k.table, Chain: chain.Chain, Handle: r.Handle}); err != nil {
				return err
			}
		}
	}
	if !found {
		return nil
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("removing rules of set %s: %w", set, err)
	}
	return nil
}

func (k *kernel) counters() (map[string][]packets, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	sets := map[string][]packets{}
	for _, chain := range k.chains {
		rules, err := c.GetRules(k.table, chain.Chain)
		if err != nil {
			return nil, fmt.Errorf("listing chain %s: %w", chain.Name, err)
		}
		for _, r := range rules {
			set, pr, ok := parseComment(r.UserData)
			if !ok {
				continue
			}
			pr.Hook = chain.hook
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok {
					sets[set] = append(sets[set], packets{Rule: pr, Count: n.Packets})
				}
			}
		}
	}
	if k.queue != nil {
		k.queue.counters(sets)
	}
	return sets, nil
}

func (k *kernel) teardown() error {
	if k.table == nil {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(k.table)
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting table %s: %w", k.table.Name, err)
	}
	k.table = nil
	if k.queue != nil {
		err = k.queue.Close()
		k.queue = nil
	}
	return err
}

// comment is what a rule carries to be found again: "SET ROLE INDEX".
func comment(set string, r rule) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, fmt.Sprintf("%s %s %d", set, r.Role, r.Index))
}

func parseComment(data []byte) (set string, r rule, ok bool) {
	s, ok := userdata.GetString(data, userdata.TypeComment)
	if !ok {
		return "", rule{}, false
	}
	f := strings.Fields(s)
	if len(f) != 3 {
		return "", rule{}, false
	}
	index, err := strconv.Atoi(f[2])
	if err != nil {
		return "", rule{}, false
	}
	return f[0], rule{Role: role(f[1]), Index: index}, true
}

// exprs translates r to what the kernel executes. Nothing here looks at
// established connections, so those are cut like new ones.
func (r rule) exprs(compat bool) []expr.Any {
	var es []expr.Any
	match := func(base expr.PayloadBase, offset uint32, want []byte) {
		es = append(es,
			&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(want))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want})
	}
	if r.Addr.IsValid() {
		offset := uint32(ipSource)
		if r.Hook == Output {
			offset = ipDest
		}
		match(expr.PayloadBaseNetworkHeader, offset, r.Addr.AsSlice())
	}
	if r.Proto != 0 {
		match(expr.PayloadBaseNetworkHeader, ipProtocol, []byte{r.Proto})
	}
	if r.SPort != 0 {
		match(expr.PayloadBaseTransportHeader, l4Source, binaryutil.BigEndian.PutUint16(r.SPort))
	}
	if r.DPort != 0 {
		match(expr.PayloadBaseTransportHeader, l4Dest, binaryutil.BigEndian.PutUint16(r.DPort))
	}
	if r.NotPort != 0 {
		for _, offset := range []uint32{l4Source, l4Dest} {
			es = append(es,
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(r.NotPort)})
		}
	}
	if r.Without != 0 {
		es = append(es,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{r.Without}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}})
	}
	if r.New {
		es = append(es,
			&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
			&expr.Bitwise{
				SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4),
			},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	}
	if r.Action == duplicate && r.Hook == Input {
		// The copy comes in through the loopback device, and is not copied again.
		es = append(es,
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: loopback})
	}
	if r.Share != 0 {
		es = append(es,
			&expr.Numgen{Register: 1, Modulus: shareUnit, Type: unix.NFT_NG_RANDOM},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(uint32(r.Share * shareUnit))})
	}
	es = append(es, &expr.Counter{})
	switch r.Action {
	case drop:
		es = append(es, &expr.Verdict{Kind: expr.VerdictDrop})
	case reset:
		es = append(es, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	case duplicate:
		es = append(es,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ipDest, Len: 4},
			&expr.Dup{RegAddr: 1})
	case enqueue:
		if compat {
			es = append(es, &expr.Target{Name: "NFQUEUE", Rev: 1, Info: &queueTarget})
		} else {
			es = append(es, &expr.Queue{Num: queueNumber})
		}
	}
	return es
}

// shareUnit is the precision of shares.
const shareUnit = 1_000_000

// loopback is the name of that device, as the kernel stores names: IFNAMSIZ bytes.
var loopback = append([]byte("lo"), make([]byte, 14)...)

// queueTarget is struct xt_NFQ_info_v1 of linux/netfilter/xt_NFQUEUE.h: number and
// count of queues, aligned to eight bytes.
var queueTarget = xt.Unknown(append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, queueNumber), 1), 0, 0, 0, 0))

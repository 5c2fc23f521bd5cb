package sidecar

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Offsets into the IPv4 and the TCP or UDP header.
const (
	ipProtocol = 9
	ipSource   = 12
	ipDest     = 16
	l4Source   = 0
	l4Dest     = 2
)

// kernel is the filter of the namespace that the process lives in. The kernel
// holds the state: a rule's comment names its set, role and index.
type kernel struct {
	table  *nftables.Table
	chains map[Hook]*nftables.Chain
	// track makes the kernel track connections from the start, which rules on new
	// connections need.
	track bool
}

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

func (k *kernel) setup(run string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", describe(err))
	}
	k.table = c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "faultline_" + run})
	k.chains = map[Hook]*nftables.Chain{}
	for hook, num := range map[Hook]*nftables.ChainHook{Input: nftables.ChainHookInput, Output: nftables.ChainHookOutput} {
		chain := c.AddChain(&nftables.Chain{
			Name: string(hook), Table: k.table, Type: nftables.ChainTypeFilter,
			Hooknum: num, Priority: nftables.ChainPriorityFilter,
		})
		k.chains[hook] = chain
		if k.track {
			c.AddRule(&nftables.Rule{Table: k.table, Chain: chain, Exprs: rule{Hook: hook, Role: countSystem, New: true}.exprs()})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("creating table %s: %w", k.table.Name, describe(err))
	}
	return nil
}

func (k *kernel) apply(set string, rules []rule) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, r := range rules {
		nr := &nftables.Rule{Table: k.table, Chain: k.chains[r.Hook], Exprs: r.exprs(), UserData: comment(set, r)}
		if r.Role == drop {
			c.AddRule(nr)
		} else {
			c.InsertRule(nr)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("adding rules of set %s: %w", set, describe(err))
	}
	return nil
}

func (k *kernel) remove(set string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	found := false
	for _, chain := range k.chains {
		rules, err := c.GetRules(k.table, chain)
		if err != nil {
			return fmt.Errorf("listing chain %s: %w", chain.Name, err)
		}
		for _, r := range rules {
			if s, _, ok := parseComment(r.UserData); !ok || s != set {
				continue
			}
			found = true
			if err := c.DelRule(&nftables.Rule{Table: k.table, Chain: chain, Handle: r.Handle}); err != nil {
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
	for hook, chain := range k.chains {
		rules, err := c.GetRules(k.table, chain)
		if err != nil {
			return nil, fmt.Errorf("listing chain %s: %w", chain.Name, err)
		}
		for _, r := range rules {
			set, pr, ok := parseComment(r.UserData)
			if !ok {
				continue
			}
			pr.Hook = hook
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok {
					sets[set] = append(sets[set], packets{Rule: pr, Count: n.Packets})
				}
			}
		}
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
	return nil
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
func (r rule) exprs() []expr.Any {
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
	if r.New {
		es = append(es,
			&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
			&expr.Bitwise{
				SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4),
			},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	}
	es = append(es, &expr.Counter{})
	if r.Role == drop {
		es = append(es, &expr.Verdict{Kind: expr.VerdictDrop})
	}
	return es
}

package queue

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// errRefused: a callback may not go where it was to go.
var errRefused = errors.New("callback refused")

// addressGuard says to which addresses callbacks may go. Those of private
// networks (10.0.0.0/8 and the like) are allowed: receivers live in the
// cluster.
type addressGuard struct {
	hosts map[string]bool // allowed by name, in lower case
	nets  []netip.Prefix  // allowed, beyond what is not refused
	// local are the addresses of this host.
	local func() ([]net.Addr, error)
}

// refusedNets are addresses at which no receiver of others is: what answers
// there trusts whoever can reach it.
var refusedNets = []struct {
	net netip.Prefix
	why string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "is unspecified"},
	{netip.MustParsePrefix("127.0.0.0/8"), "is loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "is link-local, and some clouds' metadata"},
	{netip.MustParsePrefix("192.0.0.0/24"), "is reserved, and some cloud's metadata"}, // Oracle: 192.0.0.192
	{netip.MustParsePrefix("100.100.100.200/32"), "is a cloud's metadata"},            // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), "is a cloud's metadata"},              // Azure
	{netip.MustParsePrefix("224.0.0.0/4"), "is multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "is reserved"}, // and broadcast

	{netip.MustParsePrefix("::/128"), "is unspecified"},
	{netip.MustParsePrefix("::1/128"), "is loopback"},
	{netip.MustParsePrefix("::/96"), "is reserved"}, // RFC 4291's compatible ones
	{netip.MustParsePrefix("fe80::/10"), "is link-local"},
	{netip.MustParsePrefix("ff00::/8"), "is multicast"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "is a cloud's metadata"},      // AWS: instances, tasks and pods
	{netip.MustParsePrefix("fd20:ce::254/128"), "is a cloud's metadata"},   // Google
	{netip.MustParsePrefix("fd00:42::42/128"), "is a cloud's metadata"},    // Scaleway
	{netip.MustParsePrefix("2001::/32"), "is a tunnel (Teredo)"},           // RFC 4380
	{netip.MustParsePrefix("64:ff9b:1::/48"), "is a translator's (NAT64)"}, // RFC 8215: to which address it leads is the network's affair
}

// Addresses that have one of IPv4 in them, to which they lead.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052: the last four bytes
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765: the same
	sixTo4     = netip.MustParsePrefix("2002::/16")       // RFC 3056: those after the prefix
)

// newAddressGuard takes hosts, addresses and networks.
func newAddressGuard(allow []string) (*addressGuard, error) {
	g := &addressGuard{hosts: map[string]bool{}, local: net.InterfaceAddrs}
	for _, text := range allow {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
				prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
			}
			g.nets = append(g.nets, prefix.Masked())
			continue
		}
		if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			g.nets = append(g.nets, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		host := canonicalHost(text)
		if err := checkHost(host); err != nil {
			return nil, fmt.Errorf("callbacks allowed to %q: expected a host, an address or a network such as 10.1.2.0/24", text)
		}
		g.hosts[host] = true
	}
	return g, nil
}

// allowsHost says that whatever address the name has is allowed.
func (g *addressGuard) allowsHost(host string) bool { return g.hosts[canonicalHost(host)] }

// check returns nil for an address that may be dialled. Other errors than
// errRefused are passing ones.
func (g *addressGuard) check(addr netip.Addr) error {
	addr = addr.WithZone("").Unmap()
	if g.allows(addr) {
		return nil
	}
	if err := g.refused(addr); err != nil {
		return err
	}
	if inner, ok := within(addr); ok && !g.allows(inner) {
		if err := g.refused(inner); err != nil {
			return fmt.Errorf("%w (as %s)", err, addr)
		}
	}
	return nil
}

func (g *addressGuard) allows(addr netip.Addr) bool {
	for _, prefix := range g.nets {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

func (g *addressGuard) refused(addr netip.Addr) error {
	for _, r := range refusedNets {
		if r.net.Contains(addr) {
			return refusal(addr.String(), r.why)
		}
	}
	local, err := g.local()
	if err != nil {
		return fmt.Errorf("addresses of this host: %w", err)
	}
	for _, a := range local {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == addr {
				return refusal(addr.String(), "is an address of this host")
			}
		}
	}
	return nil
}

func refusal(to, why string) error {
	return fmt.Errorf("%w: %s %s; if callbacks are to go there, name it in WEIR_CALLBACK_ALLOW", errRefused, to, why)
}

// within is the address of IPv4 to which one of IPv6 leads.
func within(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr), translated.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixTo4.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

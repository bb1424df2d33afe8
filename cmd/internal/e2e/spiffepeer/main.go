// Command spiffepeer is what the stories put into containers that have an identity:
// a server and a client that know each other by their X.509-SVIDs alone, as the
// reference library gets them from the Workload API.
//
//	spiffepeer serve ADDR SERVICE...   answer those services' tasks, until SIGTERM
//	spiffepeer call ADDR SERVICE       ask one, on a connection that is kept and on
//	                                   new ones, until SIGTERM
//	spiffepeer tokens ADDR SERVICE     the same with tokens (JWT-SVIDs), once
//	spiffepeer try                     ask the Workload API once, and end
//	spiffepeer chain                   print its certificate and those above it, PEM
//	spiffepeer watch                   say when certificates come, until there are no more
//	spiffepeer reads DIR               say what tls.crt and tls.key there are, at the
//	                                   start and after every SIGUSR1
//	spiffepeer idle                    do nothing, until SIGTERM
//
// Where the Workload API is says SPIFFE_ENDPOINT_SOCKET. Every line it prints
// begins with what it is of; one that begins with WRONG should not have been.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const patience = 20 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	args := append(os.Args[1:], "", "", "")
	var err error
	switch args[0] {
	case "serve":
		err = serve(ctx, args[1], os.Args[3:])
	case "call":
		err = call(ctx, args[1], args[2])
	case "tokens":
		err = tokens(ctx, args[1], args[2])
	case "try":
		err = try(ctx)
	case "chain":
		err = chain(ctx)
	case "watch":
		err = workloadapi.WatchX509Context(ctx, &watcher{stop})
	case "reads":
		err = reads(ctx, args[1])
	case "idle":
		<-ctx.Done()
	default:
		err = errors.New("unknown verb")
	}
	if err != nil && ctx.Err() == nil {
		fmt.Println("WRONG", err)
		os.Exit(1)
	}
}

// as is the identity of another service of the cluster that id is of.
func as(id spiffeid.ID, service string) spiffeid.ID {
	return spiffeid.RequireFromPathf(id.TrustDomain(), "/svc/default/%s", service)
}

// source is what the Workload API says, as long as ctx.
func source(ctx context.Context) (*workloadapi.X509Source, spiffeid.ID, error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := workloadapi.NewX509Source(wait)
	if err != nil {
		return nil, spiffeid.ID{}, err
	}
	own, err := s.GetX509SVID()
	if err != nil {
		return nil, spiffeid.ID{}, err
	}
	fmt.Println("own", own.ID)
	return s, own.ID, nil
}

func serve(ctx context.Context, addr string, services []string) error {
	s, own, err := source(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	var ids []spiffeid.ID
	for _, name := range services {
		ids = append(ids, as(own, name))
	}
	l, err := tls.Listen("tcp", addr, tlsconfig.MTLSServerConfig(s, s, tlsconfig.AuthorizeOneOf(ids...)))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	bundles, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer bundles.Close()
	fmt.Println("serving", addr)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(ctx, c.(*tls.Conn), bundles, own)
	}
}

// answer says after each line what it is: `token X` is looked at, all else comes
// back.
func answer(ctx context.Context, c *tls.Conn, bundles *workloadapi.JWTSource, own spiffeid.ID) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for in := bufio.NewReader(c); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				fmt.Println("refused", err)
			}
			return
		}
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, "token "); ok {
			line = "shut"
			if got, err := jwtsvid.ParseAndValidate(text, bundles, []string{own.String()}); err == nil {
				line = "of " + got.ID.String()
			}
		}
		if _, err := io.WriteString(c, line+"\n"); err != nil {
			return
		}
	}
}

// say sends a line and returns the answer.
func say(c net.Conn, line string) (string, error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSuffix(got, "\n"), err
}

// dial returns a connection on which something was said, and the serial number of
// the other's certificate.
func dial(ctx context.Context, s *workloadapi.X509Source, addr string, peer spiffeid.ID) (*tls.Conn, string, error) {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := (&tls.Dialer{Config: tlsconfig.MTLSClientConfig(s, s, tlsconfig.AuthorizeID(peer))}).DialContext(wait, "tcp", addr)
	if err != nil {
		return nil, "", err
	}
	if got, err := say(c, "hello"); err != nil || got != "hello" {
		c.Close()
		return nil, "", fmt.Errorf("answered %q: %w", got, err)
	}
	conn := c.(*tls.Conn)
	return conn, conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16), nil
}

// call keeps a connection and speaks on it, and makes new ones. It counts how often
// its own certificate and the other's were replaced meanwhile.
func call(ctx context.Context, addr, service string) error {
	s, own, err := source(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if c, _, err := dial(ctx, s, addr, as(own, "nobody")); err == nil {
		c.Close()
		fmt.Println("WRONG a server passed for another service")
	}
	long, theirs, err := dial(ctx, s, addr, as(own, service))
	if err != nil {
		return err
	}
	defer long.Close()
	fmt.Println("connected")
	mine, replaced, theirsReplaced := "", 0, 0
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if got, err := say(long, "still"); err != nil || got != "still" {
			return fmt.Errorf("the connection from before: %q %w", got, err)
		}
		c, serial, err := dial(ctx, s, addr, as(own, service))
		if err != nil {
			return fmt.Errorf("a new connection: %w", err)
		}
		c.Close()
		svid, err := s.GetX509SVID()
		if err != nil {
			return err
		}
		is := svid.Certificates[0].SerialNumber.Text(16)
		if mine != "" && is != mine {
			replaced++
		}
		if serial != theirs {
			theirsReplaced++
		}
		if is != mine && mine != "" || serial != theirs {
			fmt.Printf("replaced own %d peer %d\n", replaced, theirsReplaced)
		}
		mine, theirs = is, serial
	}
}

// tokens has a server look at a token for it, at one for another, and at one that
// was changed.
func tokens(ctx context.Context, addr, service string) error {
	s, own, err := source(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	c, _, err := dial(ctx, s, addr, as(own, service))
	if err != nil {
		return err
	}
	defer c.Close()
	for name, audience := range map[string]string{"for it": as(own, service).String(), "for another": as(own, "other").String()} {
		got, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
		if err != nil {
			return err
		}
		text := got.Marshal()
		for _, changed := range []bool{false, true} {
			if changed {
				b := []byte(text)
				b[len(b)-8] ^= 1
				text = string(b)
			}
			said, err := say(c, "token "+text)
			if err != nil {
				return err
			}
			fmt.Printf("token %s, changed %v: %s\n", name, changed, said)
		}
	}
	fmt.Println("done")
	<-ctx.Done()
	return nil
}

// try asks for a certificate and a token as a task would.
func try(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	client, err := workloadapi.New(wait)
	if err != nil {
		return err
	}
	defer client.Close()
	var both sync.WaitGroup
	both.Go(func() { _, err := client.FetchX509SVID(wait); tell("certificate", err) })
	both.Go(func() {
		_, err := client.FetchJWTSVID(wait, jwtsvid.Params{Audience: "x"})
		tell("token", err)
	})
	both.Wait()
	return nil
}

func chain(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	x, err := workloadapi.FetchX509Context(wait)
	if err != nil {
		return err
	}
	own := x.DefaultSVID()
	bundle, err := x.Bundles.GetX509BundleForTrustDomain(own.ID.TrustDomain())
	if err != nil {
		return err
	}
	for _, c := range append(own.Certificates, bundle.X509Authorities()...) {
		if err := pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return err
		}
	}
	return nil
}

func tell(what string, err error) {
	if err == nil {
		fmt.Println("OPEN", what)
		return
	}
	fmt.Println("shut", what, err)
}

// watcher says what comes of the Workload API, and stops at the first error.
type watcher struct{ stop func() }

func (w *watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	fmt.Println("got", c.DefaultSVID().Certificates[0].SerialNumber.Text(16))
}

func (w *watcher) OnX509ContextWatchError(err error) {
	fmt.Println("ended", time.Now().UnixMilli(), err)
	w.stop()
}

// reads is a program that knows files and nothing else.
func reads(ctx context.Context, dir string) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	for {
		pair, err := tls.LoadX509KeyPair(dir+"/tls.crt", dir+"/tls.key")
		if err != nil {
			return err
		}
		fmt.Println("read", pair.Leaf.SerialNumber.Text(16), pair.Leaf.URIs[0])
		select {
		case <-told:
		case <-ctx.Done():
			return nil
		}
	}
}

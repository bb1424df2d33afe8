package contexts

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"filippo.io/age"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// magic begins a context's file; then come the header in one line and age's file.
const magic = "RDTX1\n"

// Header is what a context's file says in clear. It decides nothing but how the file is
// opened.
type Header struct {
	Name     string   `json:"name"`
	Person   string   `json:"person"`
	Cluster  string   `json:"cluster"`
	Managers []string `json:"managers"`
	// Ends is the end of the certificate, in Unix seconds.
	Ends int64 `json:"ends"`
	// Identity is the file with the age identity that opens it; empty: a passphrase does.
	Identity string `json:"identity"`

	// Damaged is why there is nothing but a name.
	Damaged error `json:"-"`
}

// content is what is encrypted.
type content struct {
	Header Header   `json:"header"`
	Chain  [][]byte `json:"chain"`
	Key    []byte   `json:"key"` // PKCS #8
	Roots  [][]byte `json:"roots"`
	Cross  [][]byte `json:"cross"`
}

// Key opens and seals a context's file.
type Key struct {
	identities []age.Identity
	recipient  age.Recipient
	file       string // of the identity; empty: a passphrase
}

var (
	errForm = errors.New("the file is damaged, or of another version")
	// ErrWrongKey says that a file does not open.
	ErrWrongKey = errors.New("it does not open: the passphrase or identity is not the right one")
)

// Work factors of age's scrypt: what is written, and the most that is read.
const workFactor, maxWorkFactor = 18, 22

// Passphrase is a Key of a passphrase.
func Passphrase(text string) (Key, error) {
	r, err := age.NewScryptRecipient(text)
	if err != nil {
		return Key{}, err
	}
	r.SetWorkFactor(workFactor)
	i, err := age.NewScryptIdentity(text)
	if err != nil {
		return Key{}, err
	}
	i.SetMaxWorkFactor(maxWorkFactor)
	return Key{identities: []age.Identity{i}, recipient: r}, nil
}

// Identity is the Key of an age identity file: it is sealed to the first identity there
// and opened by any.
func Identity(path string, text io.Reader) (Key, error) {
	all, err := age.ParseIdentities(text)
	if err != nil {
		return Key{}, fmt.Errorf("%s: this is no file of age identities in clear (AGE-SECRET-KEY-…)", path) // the cause may quote a key
	}
	k := Key{identities: all, file: path}
	switch i := all[0].(type) {
	case *age.X25519Identity:
		k.recipient = i.Recipient()
	case *age.HybridIdentity:
		k.recipient = i.Recipient()
	default:
		return Key{}, fmt.Errorf("%s: the first identity there is of a kind that nothing can be sealed to", path)
	}
	return k, nil
}

// seal makes a context's file.
func (k Key) seal(name string, p *pki.Person) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		return nil, err
	}
	roots := p.Roots()
	c := content{Chain: p.Chain.GetCertificates(), Key: key, Roots: roots.GetRoots(), Cross: roots.GetCross(),
		Header: Header{Name: name, Person: p.Name(), Cluster: p.ClusterID(), Managers: p.Managers, Ends: p.NotAfter().Unix(), Identity: k.file}}
	header, err := json.Marshal(c.Header)
	if err != nil {
		return nil, err
	}
	clear, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(append(append([]byte(magic), header...), '\n'))
	w, err := age.Encrypt(out, k.recipient)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(clear); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil { // it is whole after that
		return nil, err
	}
	if out.Len() > maxFile {
		return nil, fmt.Errorf("the context has more than %d bytes", maxFile)
	}
	return out.Bytes(), nil
}

// split parts a context's file into its header and age's file.
func split(raw []byte) (h Header, sealed []byte, _ error) {
	rest, ok := bytes.CutPrefix(raw, []byte(magic))
	line, sealed, found := bytes.Cut(rest, []byte("\n"))
	if !ok || !found {
		return h, nil, errForm
	}
	if err := strictjson.Decode(line, &h); err != nil || CheckName(h.Name) != nil {
		return h, nil, errForm
	}
	return h, sealed, nil
}

// open is the reverse of seal.
func (k Key) open(raw []byte) (*pki.Person, error) {
	h, sealed, err := split(raw)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), k.identities...)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, ErrWrongKey
	}
	if err != nil {
		return nil, errForm
	}
	clear, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, errForm
	}
	var c content
	if err := strictjson.Decode(clear, &c); err != nil {
		return nil, errForm
	}
	if !reflect.DeepEqual(h, c.Header) {
		return nil, errors.New("its first line was changed: it is not what is inside")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(c.Key)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, errForm
	}
	p, err := pki.NewPerson(&profilepb.CertificateChain{Certificates: c.Chain}, key, &pkipb.Roots{Roots: c.Roots, Cross: c.Cross}, h.Managers)
	if err != nil {
		return nil, err
	}
	if p.Name() != h.Person || p.ClusterID() != h.Cluster || p.NotAfter().Unix() != h.Ends {
		return nil, errForm
	}
	return p, nil
}

// Opened is a context that was decrypted. It is not for concurrent use.
type Opened struct {
	Header Header
	Person *pki.Person

	store Store
	key   Key
	raw   []byte // the file that Person is of
}

// Renew replaces the person by what next makes of it, while no other command does. Where
// one did so meanwhile, the person is what that one got. Where nothing came of it, by an
// error or the end of ctx, the person is who it was.
func (o *Opened) Renew(ctx context.Context, next func(context.Context, *pki.Person) (*pki.Person, error)) error {
	return o.store.locked(ctx, o.Header.Name, func() error {
		_, raw, err := o.store.read(o.Header.Name)
		if err != nil {
			return err
		}
		var p *pki.Person
		if bytes.Equal(raw, o.raw) {
			if p, err = next(ctx, o.Person); err != nil {
				return err
			}
			if raw, err = o.key.seal(o.Header.Name, p); err != nil {
				return err
			}
			err = atomicfile.Write(o.store.path(o.Header.Name), raw)
		} else {
			p, err = o.key.open(raw)
		}
		if p != nil {
			o.Person, o.raw = p, raw // good for this command, also where it cannot be kept
		}
		return err
	})
}

variable "name" {
  description = "What everything that is made is called."
  type        = string
  default     = "vecino"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.name))
    error_message = "name: a lower case letter, then at most 30 lower case letters, digits and hyphens."
  }
}

variable "peers" {
  description = "How many peers; each one's neighbours are the next two of the ring."
  type        = number
  default     = 4
  validation {
    condition     = var.peers >= 2 && var.peers <= 64 && floor(var.peers) == var.peers
    error_message = "peers: a whole number from 2 to 64."
  }
}

variable "locator_apart" {
  description = "Whether the locator has a machine of its own; otherwise it runs on the first peer's."
  type        = bool
  default     = false
}

variable "release_url" {
  description = "Where the machines fetch the release from: what deploy/terraform/release makes. https only."
  type        = string
  validation {
    condition     = can(regex("^https://[^\\s'\"$`\\\\]+$", var.release_url))
    error_message = "release_url: an https:// URL without quotes, blanks, $, ` and \\."
  }
}

variable "release_sha256" {
  description = "Its SHA-256, which deploy/terraform/release prints; another content is not installed."
  type        = string
  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.release_sha256))
    error_message = "release_sha256: 64 lower case hex digits."
  }
}

variable "client_cidrs" {
  description = "Networks whose clients may reach the peers' REST port. None: only peers reach it."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "client_cidrs: IPv4 networks like 203.0.113.0/24."
  }
}

variable "admin_cidrs" {
  description = "Networks from where one may log in by ssh. None: nobody can."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for cidr in var.admin_cidrs : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "admin_cidrs: IPv4 networks like 203.0.113.4/32."
  }
  validation {
    condition     = !contains(var.admin_cidrs, "0.0.0.0/0")
    error_message = "admin_cidrs: ssh is not opened to everybody; name your own network."
  }
}

variable "ssh_public_key" {
  description = "Who may log in as `admin`: an OpenSSH public key. Empty: no key is installed."
  type        = string
  default     = ""
  validation {
    condition     = var.ssh_public_key == "" || can(regex("^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp[0-9]+) ", var.ssh_public_key))
    error_message = "ssh_public_key: one line as in ~/.ssh/id_ed25519.pub."
  }
}

variable "port" {
  description = "The peers' REST port."
  type        = number
  default     = 80
  validation {
    condition     = var.port >= 1 && var.port <= 65535 && !contains([22, 51015, 51016], var.port)
    error_message = "port: 1 to 65535, and none of 22 (ssh), 51015 and 51016 (the locator)."
  }
}

variable "instance_type" {
  description = "Of every machine. Its architecture must be `architecture`."
  type        = string
  default     = "t3.small"
}

variable "architecture" {
  description = "What the release was built for."
  type        = string
  default     = "x86_64"
  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture: x86_64 or arm64."
  }
}

variable "ami_id" {
  description = "An image with systemd, bash, curl and Debian's layout. Empty: the newest Debian 12."
  type        = string
  default     = ""
}

variable "disk_gib" {
  description = "Each peer's disk, which holds what it shares and what it fetched."
  type        = number
  default     = 30
  validation {
    condition     = var.disk_gib >= 8 && var.disk_gib <= 16384
    error_message = "disk_gib: 8 to 16384."
  }
}

variable "vpc_cidr" {
  description = "The network that is made for them; its first /24 is used."
  type        = string
  default     = "10.78.0.0/16"
  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && tonumber(try(split("/", var.vpc_cidr)[1], 99)) <= 24
    error_message = "vpc_cidr: an IPv4 network of /24 or larger."
  }
}
